"""Clients from PyPI, unmodified, against a running server that wants an API key: their vectors are those of the product's own API.

usage: clients.py http://127.0.0.1:8000 KEY
"""

import asyncio
import base64
import inspect
import json
import logging
import os
import pathlib
import sys
import urllib.error
import urllib.request

import llama_index.core
import numpy
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.dataclasses import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_openai import OpenAIEmbeddings
from langchain_together import TogetherEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from openai import AsyncOpenAI, BadRequestError, OpenAI

BASE, KEY = sys.argv[1].rstrip("/"), sys.argv[2]
V1 = f"{BASE}/v1"
MODEL = "m2-bert"
TEXTS = ["What is machine learning?", "How does deep learning work?", "Straße, 東京, naïve 🦋"]


async def result(answer):
    """What a client's method returned, or will have returned if it is an asynchronous one."""
    return await answer if inspect.isawaitable(answer) else answer


def then(method, read):
    """A client's method, followed by what its user does to have vectors."""

    async def asked(texts):
        return read(await result(method(texts)))

    return asked


def openai():
    """OpenAI's own client, in each format."""
    for name, client in (("openai", OpenAI), ("openai, async", AsyncOpenAI)):
        create = client(base_url=V1, api_key=KEY).embeddings.create
        yield f"{name}, float", *openai_methods(create, list, encoding_format="float")
        yield f"{name}, base64", *openai_methods(create, from_base64, encoding_format="base64")
        # Without a format the client asks for base64, and decodes it.
        yield f"{name}, no format", *openai_methods(create, list)


def openai_methods(create, decode, **options):
    def ask(texts):
        return create(model=MODEL, input=texts, **options)

    def vectors(answer):
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
        return [decode(item.embedding) for item in answer.data]

    return then(ask, lambda answer: vectors(answer)[0]), then(ask, vectors)


def from_base64(text):
    return numpy.frombuffer(base64.b64decode(text), "<f4")


def langchain():
    options = {"base_url": V1, "api_key": KEY, "model": MODEL}
    openai = OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    for name, embeddings in (("langchain-openai", openai), ("langchain-together", TogetherEmbeddings(**options))):
        yield name, embeddings.embed_query, embeddings.embed_documents
        yield f"{name}, async", embeddings.aembed_query, embeddings.aembed_documents


def llama_index_clients():
    openai = OpenAIEmbedding(api_base=V1, api_key=KEY, model_name=MODEL)
    # Without instructions, which the client would put before each text.
    plain = {"text_instruction": "", "query_instruction": ""}
    tei = TextEmbeddingsInference(base_url=BASE, auth_token=KEY, model_name=MODEL, **plain)
    for name, embeddings in (("llama-index openai", openai), ("llama-index tei", tei)):
        yield name, embeddings.get_text_embedding, embeddings.get_text_embedding_batch
        yield f"{name}, async", embeddings.aget_text_embedding, embeddings.aget_text_embedding_batch
        yield f"{name}, query", embeddings.get_query_embedding, None
        yield f"{name}, query, async", embeddings.aget_query_embedding, None


def huggingface():
    for name, client in (("huggingface_hub", InferenceClient), ("huggingface_hub, async", AsyncInferenceClient)):
        extract = client(BASE, token=KEY).feature_extraction
        # One text is answered as a list of one.
        yield name, then(extract, lambda vectors: vectors[0]), extract


def haystack():
    key = Secret.from_token(KEY)
    openai = {"api_base_url": V1, "api_key": key, "model": MODEL}
    # The client asks for vectors that are not normalised unless told otherwise.
    tei = {"api_type": "text_embeddings_inference", "api_params": {"url": BASE}, "token": key, "normalize": True}
    quiet = {"progress_bar": False}
    for name, text, documents in (
        ("haystack openai", OpenAITextEmbedder(**openai), OpenAIDocumentEmbedder(**openai, **quiet)),
        ("haystack tei", HuggingFaceAPITextEmbedder(**tei), HuggingFaceAPIDocumentEmbedder(**tei, **quiet)),
    ):
        yield name, *haystack_methods(text.run, documents.run)
        yield f"{name}, async", *haystack_methods(text.run_async, documents.run_async)


def haystack_methods(run_text, run_documents):
    def embed(texts):
        return run_documents(documents=[Document(content=text) for text in texts])

    def vectors(answer):
        return [document.embedding for document in answer["documents"]]

    return then(lambda text: run_text(text=text), lambda answer: answer["embedding"]), then(embed, vectors)


def own(texts, key=KEY):
    """Vectors of the product's own API."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{BASE}/embed", json.dumps({"query": texts}).encode(), headers)
    return numpy.array(json.load(urllib.request.urlopen(request))["embeddings"], dtype=numpy.float32)


def wants_the_key():
    """Else the clients below would prove nothing by their keys."""
    for key in (None, f"not {KEY}"):
        try:
            own(TEXTS, key)
        except urllib.error.HTTPError as error:
            assert error.code == 401, error
        else:
            raise AssertionError(f"the server answers whoever has the key {key}")
    print("clients: the server refuses those without its key")


async def compare(expected):
    """Asks each client's methods, for one text and for all of them."""
    for clients in (openai, langchain, llama_index_clients, huggingface, haystack):
        for name, one, many in clients():
            check(f"{name}, one", await result(one(TEXTS[0])), expected[0])
            if many:
                check(f"{name}, many", await result(many(TEXTS)), expected)


def check(name, vectors, expected):
    vectors = numpy.asarray(vectors, dtype=numpy.float32)
    assert vectors.shape == expected.shape, f"{name}: {vectors.shape}, expected {expected.shape}"
    assert (vectors == expected).all(), f"{name}: off by {abs(vectors - expected).max()}"
    print(f"clients: {name}")


async def langchain_with_token_ids():
    """What LangChain sends unless told otherwise, another vocabulary's token ids, is refused with advice."""
    # tiktoken downloads that vocabulary where it has no copy; LlamaIndex brings one.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(pathlib.Path(llama_index.core.__file__).parent / "_static/tiktoken_cache")
    embeddings = OpenAIEmbeddings(base_url=V1, api_key=KEY, model=MODEL)
    for method, texts in (
        (embeddings.embed_query, TEXTS[0]),
        (embeddings.embed_documents, TEXTS),
        (embeddings.aembed_query, TEXTS[0]),
        (embeddings.aembed_documents, TEXTS),
    ):
        try:
            await result(method(texts))
        except BadRequestError as error:
            assert "check_embedding_ctx_length=False" in str(error), error
        else:
            raise AssertionError(f"{method.__name__}: token ids were embedded")
    print("clients: langchain-openai's token ids of another vocabulary are refused with advice")


async def main():
    logging.disable(logging.WARNING)
    wants_the_key()
    await compare(own(TEXTS))
    await langchain_with_token_ids()
    assert OpenAI(base_url=V1, api_key=KEY).models.list().data


asyncio.run(main())
