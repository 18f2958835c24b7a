//! `tensormill doctor`

use crate::text::{bytes, table};
use serde_json::json;

/// Instruction sets that kernels know, and whether the processor has them.
fn features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! ask {
            ($($f:tt),*) => { vec![$(($f, std::arch::is_x86_feature_detected!($f))),*] };
        }
        ask!("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni", "avx512bf16")
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec![
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        vec![]
    }
}

fn memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

pub fn run(as_json: bool) -> String {
    let features = features();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory();
    let forced = std::env::var("TENSORMILL_CPU").ok();
    if as_json {
        let features: serde_json::Map<_, _> =
            features.iter().map(|(f, yes)| ((*f).to_string(), json!(yes))).collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH, "features": features, "threads": threads,
            "memory_available": memory, "cuda": "not built in",
            "reads": ["onnx", "mill"], "writes": ["mill"], "backends": ["cpu", "reference"],
            "TENSORMILL_CPU": forced,
        });
        return format!("{report}\n");
    }
    let list = |has: bool| {
        features.iter().filter(|(_, yes)| *yes == has).map(|(f, _)| *f).collect::<Vec<_>>().join(" ")
    };
    let mut rows = vec![
        vec!["version".to_string(), env!("CARGO_PKG_VERSION").to_string()],
        vec!["system".into(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)],
        vec!["instructions".into(), list(true)],
        vec!["missing".into(), list(false)],
        vec!["threads".into(), threads.to_string()],
        vec![
            "memory".into(),
            memory.map_or_else(|| "not known".into(), |b| format!("{} available", bytes(b))),
        ],
        vec!["backends".into(), "cpu, reference".into()],
        vec!["CUDA".into(), "not built in".into()],
        vec!["formats".into(), "reads ONNX and .mill, writes .mill".into()],
    ];
    if let Some(level) = forced {
        rows.push(vec![
            "TENSORMILL_CPU".into(),
            format!("kernels are held to `{}`", crate::text::safe(&level)),
        ]);
    }
    if cfg!(debug_assertions) {
        rows.push(vec!["build".into(), "with debug assertions: measure with cargo build --release".into()]);
    }
    table(&["what", "found"], &[], &rows)
}
