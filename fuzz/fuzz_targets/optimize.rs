//! A random graph on random inputs computes the same before and after optimization, at both classes of
//! numerics that the default pipeline has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tensormill_optimizer::{
    Numerics, OptOptions, Pipeline,
    testing::{Bytes, compare, random_graph, random_inputs},
};
use tensormill_reference::{EvalLimits, interpret};

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes::new(data.to_vec());
    let nodes = 4 + bytes.below(28);
    let g = random_graph(&mut bytes, nodes).expect("what is drawn is valid");
    let pipeline = Pipeline::by_name("default").expect("a named pipeline");
    for numerics in [Numerics::Exact, Numerics::Reassociates] {
        let mut optimized = g.clone();
        let done = pipeline.run(&mut optimized, &OptOptions { numerics, verify: true, ..Default::default() });
        for seed in 0..2 {
            let inputs = random_inputs(&g, &mut Bytes::seeded(seed, 1 << 12));
            match &done {
                Ok(_) => {
                    if let Err(e) = compare(&g, &optimized, &inputs, numerics) {
                        panic!("{e}\n{g}\nbecame\n{optimized}");
                    }
                }
                // The optimizer may find that no run can succeed; then none does.
                Err(e) => assert!(interpret(&g, &inputs, &EvalLimits::default()).is_err(), "{e}\n{g}"),
            }
        }
    }
});
