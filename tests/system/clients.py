"""Clients from PyPI, unmodified, against a running server: their vectors are those of the product's own API.

usage: clients.py http://127.0.0.1:8000
"""

import asyncio
import base64
import http.client
import json
import logging
import sys
import urllib.parse

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

BASE = sys.argv[1].rstrip("/")
V1 = f"{BASE}/v1"
TEXTS = ["What is machine learning?", "How does deep learning work?", "Straße, 東京, naïve 🦋"]
KEY = "any"


def own(texts):
    """Vectors of the product's own API."""
    url = urllib.parse.urlsplit(BASE)
    connection = http.client.HTTPConnection(url.hostname, url.port)
    connection.request("POST", "/embed", json.dumps({"query": texts}), {"Content-Type": "application/json"})
    return numpy.array(json.load(connection.getresponse())["embeddings"], dtype=numpy.float32)


EXPECTED = own(TEXTS)


def check(name, vectors, count=len(TEXTS)):
    vectors = numpy.asarray(vectors, dtype=numpy.float32)
    expected = EXPECTED[:count]
    assert vectors.shape == expected.shape, f"{name}: {vectors.shape}, expected {expected.shape}"
    assert (vectors == expected).all(), f"{name}: off by {abs(vectors - expected).max()}"
    print(f"clients: {name}")


def openai_sync():
    client = OpenAI(base_url=V1, api_key=KEY)
    for form in ("float", "base64"):
        answer = client.embeddings.create(model="m2-bert", input=TEXTS, encoding_format=form)
        vectors = [item.embedding for item in answer.data]
        if form == "base64":
            vectors = [numpy.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
        check(f"openai, many, {form}", vectors)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    # Without a format the client asks for base64, and decodes it.
    check("openai, one", [client.embeddings.create(model="m2-bert", input=TEXTS[0]).data[0].embedding], 1)
    assert [model.id for model in client.models.list()]


async def openai_async():
    async with AsyncOpenAI(base_url=V1, api_key=KEY) as client:
        answer = await client.embeddings.create(model="m2-bert", input=TEXTS)
        check("openai, async", [item.embedding for item in answer.data])


def langchain():
    embeddings = OpenAIEmbeddings(base_url=V1, api_key=KEY, model="m2-bert", check_embedding_ctx_length=False)
    check("langchain-openai, many", embeddings.embed_documents(TEXTS))
    check("langchain-openai, one", [embeddings.embed_query(TEXTS[0])], 1)
    check("langchain-openai, async", asyncio.run(embeddings.aembed_documents(TEXTS)))
    together = TogetherEmbeddings(base_url=V1, api_key=KEY, model="m2-bert")
    check("langchain-together, many", together.embed_documents(TEXTS))
    check("langchain-together, one", [together.embed_query(TEXTS[0])], 1)


def langchain_with_token_ids():
    """What the client sends unless told otherwise: another vocabulary's token ids."""
    client = OpenAI(base_url=V1, api_key=KEY)
    try:
        client.embeddings.create(model="m2-bert", input=[[3923, 374, 5780, 6975, 30]])
    except BadRequestError as error:
        assert "check_embedding_ctx_length=False" in str(error), error
        print("clients: token ids of another vocabulary are refused with advice")
    else:
        raise AssertionError("token ids were embedded")


def llama_index():
    openai = OpenAIEmbedding(api_base=V1, api_key=KEY, model_name="m2-bert")
    check("llama-index openai, many", openai.get_text_embedding_batch(TEXTS))
    check("llama-index openai, one", [openai.get_text_embedding(TEXTS[0])], 1)
    check("llama-index openai, async", asyncio.run(openai.aget_text_embedding_batch(TEXTS)))
    # Without instructions, which the client would put before each text.
    tei = TextEmbeddingsInference(base_url=BASE, model_name="m2-bert", text_instruction="", query_instruction="")
    check("llama-index tei, many", tei.get_text_embedding_batch(TEXTS))
    check("llama-index tei, one", [tei.get_query_embedding(TEXTS[0])], 1)
    check("llama-index tei, async", asyncio.run(tei.aget_text_embedding_batch(TEXTS)))


def huggingface():
    client = InferenceClient(BASE)
    check("huggingface_hub, one", client.feature_extraction(TEXTS[0]), 1)
    check("huggingface_hub, many", client.feature_extraction(TEXTS))

    async def run():
        async with AsyncInferenceClient(BASE) as client:
            return await client.feature_extraction(TEXTS)

    check("huggingface_hub, async", asyncio.run(run()))


def haystack():
    documents = [Document(content=text) for text in TEXTS]
    openai = {"api_base_url": V1, "api_key": Secret.from_token(KEY), "model": "m2-bert"}
    check("haystack openai, one", [OpenAITextEmbedder(**openai).run(text=TEXTS[0])["embedding"]], 1)
    embedded = OpenAIDocumentEmbedder(**openai, progress_bar=False).run(documents=documents)
    check("haystack openai, many", [document.embedding for document in embedded["documents"]])
    # The client asks for vectors that are not normalised unless told otherwise.
    tei = {"api_type": "text_embeddings_inference", "api_params": {"url": BASE}, "normalize": True}
    check("haystack tei, one", [HuggingFaceAPITextEmbedder(**tei).run(text=TEXTS[0])["embedding"]], 1)
    embedded = HuggingFaceAPIDocumentEmbedder(**tei, progress_bar=False).run(documents=documents)
    check("haystack tei, many", [document.embedding for document in embedded["documents"]])


def main():
    logging.disable(logging.WARNING)
    openai_sync()
    asyncio.run(openai_async())
    langchain()
    langchain_with_token_ids()
    llama_index()
    huggingface()
    haystack()


main()
