//! Naming a model, and loading what is named.

use danaus_model::FilterFamily::{Init, Mid, Rough, Smooth};
use danaus_model::{
    HubOptions, LoadOptions, ModelConfig, ModelSource, SyntheticSize, load, synthetic, synthetic_with,
};

use crate::common::{assert_same, fixture};

fn parse(text: &str) -> Result<ModelSource, String> {
    text.parse().map_err(|error: danaus_model::ModelSourceError| error.to_string())
}

#[test]
fn names_are_understood_and_shown_again() {
    let folder = fixture("tiny-64");
    let cases = [
        ("synthetic", ModelSource::Synthetic(SyntheticSize::K32, Rough), "synthetic:32k"),
        ("synthetic:2k", ModelSource::Synthetic(SyntheticSize::K2, Rough), "synthetic:2k"),
        ("synthetic:8k", ModelSource::Synthetic(SyntheticSize::K8, Rough), "synthetic:8k"),
        ("synthetic:32k", ModelSource::Synthetic(SyntheticSize::K32, Rough), "synthetic:32k"),
        ("synthetic:32k:rough", ModelSource::Synthetic(SyntheticSize::K32, Rough), "synthetic:32k"),
        ("synthetic:32k:smooth", ModelSource::Synthetic(SyntheticSize::K32, Smooth), "synthetic:32k:smooth"),
        ("synthetic:8k:mid", ModelSource::Synthetic(SyntheticSize::K8, Mid), "synthetic:8k:mid"),
        ("synthetic:2k:init", ModelSource::Synthetic(SyntheticSize::K2, Init), "synthetic:2k:init"),
        (
            danaus_model::DEFAULT_MODEL,
            ModelSource::Hub(danaus_model::DEFAULT_MODEL.into()),
            danaus_model::DEFAULT_MODEL,
        ),
        (folder.to_str().unwrap(), ModelSource::Folder(folder.clone()), folder.to_str().unwrap()),
        (".", ModelSource::Folder(".".into()), "."),
        ("builtin", ModelSource::Builtin, "builtin"),
    ];
    for (text, source, shown) in cases {
        assert_eq!(parse(text), Ok(source.clone()), "{text}");
        assert_eq!(source.to_string(), shown);
        assert_eq!(parse(shown), Ok(source));
    }
}

#[test]
fn what_cannot_be_a_model_is_refused_with_what_can() {
    let file = fixture("tiny-64/config.json");
    let cases = [
        ("", "is neither a folder that exists nor a hub id"),
        ("bert", "is neither a folder that exists nor a hub id"),
        ("./gone", "is neither a folder that exists nor a hub id"),
        ("/gone/model", "is neither a folder that exists nor a hub id"),
        ("a/b/c", "is neither a folder that exists nor a hub id"),
        ("../up", "is neither a folder that exists nor a hub id"),
        ("owner/..", "is neither a folder that exists nor a hub id"),
        ("owner/na me", "is neither a folder that exists nor a hub id"),
        ("owner/name?x", "is neither a folder that exists nor a hub id"),
        ("synthetic:4k", "is no size of a synthetic model"),
        ("synthetic:", "is no size of a synthetic model"),
        ("synthetic:smooth", "is no size of a synthetic model"),
        ("synthetic:2k:", "names no family of filters"),
        ("synthetic:2k:soft", "names no family of filters"),
        ("synthetic:2k:smooth:smooth", "names no family of filters"),
        (file.to_str().unwrap(), "is a file, not the folder that holds it"),
    ];
    for (text, problem) in cases {
        let error = parse(text).unwrap_err();
        assert!(
            error.starts_with(&format!("{text:?} {problem}: expected a hub id (owner/name, such as")),
            "{error}"
        );
        assert!(
            error.contains("synthetic:2k") && error.contains(":init, :smooth, :mid or :rough"),
            "{error}"
        );
    }
}

fn options(source: ModelSource) -> LoadOptions {
    LoadOptions { source, revision: None, hub: HubOptions::from_env() }
}

#[test]
fn a_named_synthetic_model_is_the_80m_shape_with_seed_1() {
    let model = load(&options(ModelSource::Synthetic(SyntheticSize::K2, Rough))).unwrap();
    assert_eq!((model.id.as_str(), model.synthetic, model.config.max_tokens()), ("synthetic:2k", true, 2048));
    let config = ModelConfig::m2_bert_80m(2048);
    assert_same(&model.weights, &synthetic(&config, 1).weights);
    let model = load(&options(ModelSource::Synthetic(SyntheticSize::K2, Smooth))).unwrap();
    assert_eq!((model.id.as_str(), model.synthetic), ("synthetic:2k:smooth", true));
    assert_same(&model.weights, &synthetic_with(&config, 1, Smooth.into()).weights);
}

#[test]
fn a_folder_loads() {
    let model = load(&options(ModelSource::Folder(fixture("tiny-96")))).unwrap();
    assert_eq!((model.id.as_str(), model.synthetic, model.revision), ("tiny-96", false, None));
}
