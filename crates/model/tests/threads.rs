//! Loading takes the threads that it was given. In a process of its own, since that is decided once.

use danaus_model::{ModelConfig, synthetic, use_threads};

#[test]
fn the_first_number_of_threads_stays() {
    use_threads(3).unwrap();
    assert_eq!(rayon::current_num_threads(), 3);
    assert_eq!(
        synthetic(&ModelConfig { num_hidden_layers: 1, ..ModelConfig::m2_bert_80m(64) }, 1).digest().len(),
        64
    );
    assert!(use_threads(2).is_err());
    assert_eq!(rayon::current_num_threads(), 3);
}
