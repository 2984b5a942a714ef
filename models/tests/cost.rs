//! What a step of tiny-r1 costs, against its hyperparameters multiplied out by hand.

use std::path::Path;

use ggml_sys::GgmlType;
use ggml_sys::gguf::Gguf;
use models::cost::{Mixture, StepCost};
use models::{MlaForm, Model};

#[test]
fn bytes_and_multiplications_of_a_step_are_those_of_its_tensors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-r1/tiny-r1-q8_0.gguf");
    let model = Model::load(Gguf::open(&path).unwrap()).unwrap();
    let layers = model.network().cache(GgmlType::F16, GgmlType::F16);

    // Latents of 256 with 32 for the position; 4 heads of 64 + 32 and values of 64.
    let attention = 256 * (256 + 32) + 2 * (4 * 64 * 256) + 256 * 256 + 256 * 256 + 256 * (4 * 96);
    let (expert, dense, router) = (3 * 256 * 256, 3 * 256 * 512, 256 * 16);
    // Blocks of 32 elements take 34 bytes; norms and the router are F32, of 4.
    let q8_0 = |n: u64| n / 32 * 34;
    let norms = 4 * (3 * 4 * 256 + 256);
    // Three layers, the first dense, two with a shared expert and 4 of 16 others.
    let want = StepCost {
        always: q8_0(3 * attention + dense + 2 * expert) + norms + 2 * 4 * (router + 16),
        per_token: q8_0(256),
        head: q8_0(256 * 1280),
        mixtures: vec![Mixture { n_expert: 16, n_used: 4, bytes: q8_0(expert), macs: expert }; 2],
        per_position: 3 * 2 * (256 + 32),
        macs_per_token: 3 * attention + dense + 2 * (router + expert + 4 * expert),
        macs_per_output: 256 * 1280,
    };
    for form in [MlaForm::Absorbed, MlaForm::Naive] {
        let cost = StepCost::new(&model.record(form).unwrap().graph, &layers);
        assert_eq!(cost, want, "{form:?}");
    }
    let one = want.always + want.per_token + want.head + 2 * 4 * q8_0(expert) + 100 * want.per_position;
    assert_eq!(want.bytes(1, 1, 100), one as f64);
}
