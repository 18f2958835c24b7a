//! `cargo xtask spills`: the register tiles must stay in registers.
//!
//! A tile whose sums the compiler moves to memory is as right as before and several times slower, so no
//! other test would see it: this one reads the machine code of the loops.

use std::{path::PathBuf, process::Command};

/// A function and what its loops must hold.
struct Tile {
    /// A part of the function's name in the symbol table, the same in either way of mangling.
    symbol: &'static str,
    shown: &'static str,
    /// Multiply-adds of its largest loop; fewer mean that this test looks at something else.
    largest: usize,
}

/// Loops of fewer multiply-adds wait for something else than registers.
const FEWEST: usize = 8;

const EXAMPLES: [(&str, &[Tile]); 2] = [
    (
        "shapes",
        &[
            Tile { symbol: "6matmul4tile10run_avx512", shown: "matrix product, AVX-512", largest: 14 * 2 },
            Tile { symbol: "6matmul4tile8run_avx2", shown: "matrix product, AVX2", largest: 6 * 2 },
        ],
    ),
    (
        "channels_last",
        &[
            Tile { symbol: "4conv4tile10run_avx512", shown: "convolution, AVX-512", largest: 4 * 12 * 2 },
            Tile { symbol: "4conv4tile8run_avx2", shown: "convolution, AVX2", largest: 4 * 6 * 2 },
        ],
    ),
];

/// Whether there is a disassembler, and machine code that it is told of here.
pub fn available() -> bool {
    cfg!(target_arch = "x86_64")
        && Command::new("objdump").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Builds the kernels' examples as they are released, with symbols, and reads their loops.
pub fn run() -> Result<(), String> {
    if !available() {
        return Err("needs objdump (binutils) on x86-64".into());
    }
    let mut wrong = vec![];
    for (example, tiles) in EXAMPLES {
        let binary = build(example)?;
        let done = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(&binary).output();
        let done = done.map_err(|e| format!("objdump: {e}"))?;
        if !done.status.success() {
            return Err(format!("objdump {}: {}", binary.display(), done.status));
        }
        let text = String::from_utf8_lossy(&done.stdout);
        for tile in tiles {
            match check(&text, tile) {
                Ok(loops) => println!("{:<28} {loops} loops in registers", tile.shown),
                Err(e) => wrong.push(format!("{}: {e}", tile.shown)),
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
}

/// The example's binary with the release profile's code; only the benchmarks' profile keeps symbols.
fn build(example: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo)
        .args(["build", "--profile", "bench", "--quiet", "-p", "tensormill-kernels", "--example", example])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !done.status.success() {
        return Err(format!("building the example {example}: {}", done.status));
    }
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or_else(|| format!("cargo named no binary of the example {example}"))
}

/// One machine instruction.
struct Instruction<'a> {
    address: u64,
    name: &'a str,
    operands: &'a str,
}

fn instruction(line: &str) -> Option<Instruction<'_>> {
    let (address, rest) = line.trim_start().split_once(':')?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let rest = rest.trim();
    let (name, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some(Instruction { address, name, operands: operands.trim() })
}

/// Checks the loops of one function and counts them.
fn check(text: &str, tile: &Tile) -> Result<usize, String> {
    let is_ours = |line: &&str| line.ends_with(">:") && line.contains(tile.symbol);
    let mut lines = text.lines();
    lines.find(is_ours).ok_or_else(|| format!("no function *{}*", tile.symbol))?;
    let code: Vec<_> = lines.take_while(|l| !l.is_empty()).filter_map(instruction).collect();
    // A function may keep a frame pointer in this register, or anything else.
    let frame = code.iter().any(|i| i.name == "mov" && i.operands == "%rsp,%rbp");
    let (mut count, mut largest) = (0, 0);
    for body in innermost(&code) {
        let products = body.iter().filter(|i| is_product(i.name)).count();
        if products < FEWEST {
            continue;
        }
        count += 1;
        largest = largest.max(products);
        if let Some(bad) = body.iter().find(|i| touches_stack(i, frame) || stores(i)) {
            let (name, operands) = (bad.name, bad.operands);
            return Err(format!(
                "a loop of {products} multiply-adds keeps vectors in memory: {:x}: {name} {operands}",
                bad.address
            ));
        }
    }
    if largest < tile.largest {
        return Err(format!("the largest loop has {largest} multiply-adds, not {}", tile.largest));
    }
    Ok(count)
}

/// The loops that hold no other: what lies between a jump backward and its target.
fn innermost<'a, 'b>(code: &'a [Instruction<'b>]) -> Vec<&'a [Instruction<'b>]> {
    let mut spans: Vec<(usize, usize)> = vec![];
    for (end, i) in code.iter().enumerate() {
        if !i.name.starts_with('j') {
            continue;
        }
        let target = i.operands.split_whitespace().next().and_then(|t| u64::from_str_radix(t, 16).ok());
        let Some(start) = target.and_then(|t| code[..=end].binary_search_by_key(&t, |i| i.address).ok())
        else {
            continue;
        };
        spans.push((start, end));
    }
    let holds = |a: &(usize, usize), b: &(usize, usize)| a != b && a.0 <= b.0 && b.1 <= a.1;
    spans.iter().filter(|a| !spans.iter().any(|b| holds(a, b))).map(|&(s, e)| &code[s..=e]).collect()
}

fn is_product(name: &str) -> bool {
    name.starts_with("vfmadd") && name.ends_with("ps")
}

fn has_vector(operands: &str) -> bool {
    ["%xmm", "%ymm", "%zmm"].iter().any(|r| operands.contains(r))
}

fn touches_stack(i: &Instruction<'_>, frame: bool) -> bool {
    has_vector(i.operands) && (i.operands.contains("(%rsp") || frame && i.operands.contains("(%rbp"))
}

/// Whether a vector goes to memory, wherever that is.
fn stores(i: &Instruction<'_>) -> bool {
    i.name.starts_with("vmov") && has_vector(i.operands) && i.operands.ends_with(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILE: Tile = Tile { symbol: "4tile3run", shown: "a tile", largest: 8 };

    fn listing(prologue: &str, inside: &str) -> String {
        let products: String = (0..8)
            .map(|i| format!("  {:x}:\tvfmadd231ps 0x4(%rbp,%rax,1){{1to16}},%zmm1,%zmm{i}\n", 0x20 + i))
            .collect();
        format!(
            "0000000000000010 <_ZN4tile3run17hE>:\n  10:\t{prologue}\n{products}  30:\t{inside}\n  \
             38:\tjne    20 <_ZN4tile3run17hE+0x10>\n  40:\tvmovups %zmm1,0x40(%rsp)\n  48:\tret\n\n"
        )
    }

    #[test]
    fn a_loop_in_registers_passes() {
        assert_eq!(check(&listing("push %rbp", "vmovups (%rdi),%zmm9"), &TILE), Ok(1));
    }

    #[test]
    fn stores_and_reloads_are_seen() {
        for inside in
            ["vmovups %zmm9,0x40(%rsp)", "vaddps 0x40(%rsp),%zmm9,%zmm9", "vmovaps %ymm3,(%rdi,%rax,4)"]
        {
            assert!(
                check(&listing("push %rbp", inside), &TILE)
                    .unwrap_err()
                    .contains(inside.split(' ').next().unwrap())
            );
        }
        // The products' own operand is the stack once that register is a frame pointer.
        assert!(check(&listing("mov    %rsp,%rbp", "nop"), &TILE).is_err());
    }

    #[test]
    fn what_is_not_there_fails() {
        assert!(check(&listing("nop", "nop").replace("4tile3run", "4tile4walk"), &TILE).is_err());
        assert!(check(&listing("nop", "nop"), &Tile { largest: 9, ..TILE }).is_err());
    }
}
