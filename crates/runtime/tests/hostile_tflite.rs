//! TensorFlow Lite files whose bytes were changed: they run or are refused, and nothing breaks.

#[path = "../../formats/tests/tflite/writer.rs"]
mod writer;

mod hostile;

use hostile::{PANICS, attempt, presentable, watch};
use proptest::prelude::*;
use tensormill::{Backend, FileKind, Model, Optimization, SessionOptions, Tensor};
use writer::{F32, network};

fn whole() -> Vec<u8> {
    let (net, y) = network();
    net.file(&[y])
}

#[test]
fn a_file_runs_alike_on_every_way() {
    let model = Model::load(whole()).unwrap();
    assert_eq!(model.kind(), FileKind::Tflite);
    assert_eq!(model.metadata()["tflite.description"], "written by a test");
    assert_eq!(model.inputs()[0].to_string(), "x: i8[batch,4,4,2]");
    let x: Vec<i8> = (0..96).map(|i| (i * 37 % 256 - 128) as i8).collect();
    let run = |options: SessionOptions| {
        let x = Tensor::from_vec([3, 4, 4, 2], x.clone()).unwrap();
        let outputs = model.session_with(&options).unwrap().run([("x", x)]).unwrap();
        outputs.tensor("t10").unwrap().to_f32_vec().unwrap()
    };
    let plain = run(SessionOptions::new().backend(Backend::Reference).optimization(Optimization::None));
    let fast = run(SessionOptions::new());
    assert_eq!(plain.len(), 9);
    assert!(plain.iter().zip(&fast).all(|(a, b)| (a - b).abs() < 1e-6), "{plain:?} {fast:?}");
}

#[test]
fn what_is_not_supported_is_said_to_be() {
    let (mut net, _) = network();
    let y = net.then(16, (14, vec![]), &[0], F32, &[1]);
    let e = Model::load(net.file(&[y])).unwrap_err();
    assert!(e.is_unsupported() && e.to_string().contains("LSTM (version 1) at operator 6"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(0u8), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>(),
        ]), 1..4),
        way in 0usize..3,
    ) {
        watch();
        let mut bytes = whole();
        for (at, to) in changes {
            let i = at.index(bytes.len());
            bytes[i] = to;
        }
        let options = SessionOptions::new().threads(1);
        let options = match way {
            0 => options,
            1 => options.optimization(Optimization::None),
            _ => options.backend(Backend::Reference),
        };
        let before = PANICS.lock().unwrap().len();
        let outcome = attempt(bytes, &options, &[]);
        let panicked = PANICS.lock().unwrap().get(before).cloned();
        prop_assert_eq!(panicked, None);
        if let Err((_, e)) = outcome {
            presentable("changed bytes", &e.to_string()).map_err(TestCaseError::fail)?;
        }
    }
}
