//! What integer products take and refuse, and that their text comes back.

use tensormill_ir::text;

/// A graph of one op on operands of all kinds.
fn graph(result: &str, op: &str) -> String {
    format!(
        "graph @main(%x: u8[N,4,5,5], %m: i8[2,N,6], %f: f32[N,6], %s: f32[], %z: u8[], %zi: i8[1], %c: f32[6], \
         %w: i8[6,2,3,3], %wz: i8[6], %k: i8[6,3], %k4: i4[6,3], %b: f32[2,3], %b3: f32[3], %t: u8[256], \
         %r: f32[N,6,1,1], %rows: u8[4]) -> (%y) {{\n  %y: {result} = {op}\n}}"
    )
}

#[test]
fn text_comes_back() {
    for (result, op) in [
        ("i32[2,N,3]", "matmul_integer %m, %k, %zi, %zi"),
        ("i32[N,6,3,3]", "conv_integer %x, %w, %z, %wz {group=2}"),
        ("f32[N,6,3,3]", "quantized_conv %x, %w, %c, %s, %z, %c, %wz {group=2}"),
        (
            "u8[N,6,5,5]",
            "quantized_conv %x, %w, _, %s, _, %s, _, %s, %z, %r {pads=[1, 1, 1, 1], group=2, epilogue=[relu, mul(9)], to=u8}",
        ),
        ("i8[2,N,3]", "quantized_matmul %m, %k, %b3, %s, %zi, %b3, _, %s, %zi {to=i8}"),
        ("f32[N,3]", "quantized_matmul %f, %k4, _, _, _, %b {block_size=3}"),
        ("u8[N,4,5,5]", "quantized_binary %x, %x, %s, %z, %s, _, %s, %z {kind=mul, relu=true}"),
        ("u8[2,N,6]", "byte_table %m, %t"),
    ] {
        let text = graph(result, op);
        let g = text::parse(&text).unwrap_or_else(|e| panic!("{op}: {e}"));
        let printed = text::print(&g).text;
        assert!(printed.contains(op), "{op} is printed as\n{printed}");
        let again = text::parse(&printed).unwrap_or_else(|e| panic!("{printed}: {e}"));
        assert!(again.same_as(&g), "{printed}");
    }
}

#[test]
fn operands_that_make_no_sense_are_refused() {
    for (op, why) in [
        ("matmul_integer %f, %k", "operand 0 must be u8 or i8"),
        ("matmul_integer %m, %k, %z", "operand 2 must be i8"),
        ("matmul_integer %m, %k, _, %wz", "sizes 6 and 3 do not broadcast"),
        ("conv_integer %x, %w, %rows {group=2}", "operand 2 must have one element"),
        ("quantized_conv %x, %w, %c, %s, %z {group=2}", "operand 5 is missing"),
        ("quantized_conv %x, %w, %b3, %s, _, %s {group=2}", "a bias of 3 elements for 6 channels"),
        (
            "quantized_conv %x, %w, _, %s, _, %b3 {group=2}",
            "operand 5 must have one element, or one for each",
        ),
        ("quantized_conv %x, %w, _, %s, _, %s {group=2, to=u8}", "both a dtype and a scale"),
        ("quantized_conv %x, %w, _, %s, _, %s, _, %s {group=2}", "both a dtype and a scale"),
        ("quantized_conv %x, %w, _, %s, _, %s, _, %s {group=2, to=i32}", "cannot be quantized to i32"),
        ("quantized_conv %x, %w, _, %s, _, %s, _, _, _, %r {group=2}", "takes at most 9 operands"),
        ("quantized_matmul %f, %k, _, %s, _, %s", "an operand in f32 has no scale"),
        ("quantized_matmul %m, %k4, _, %s, _, %s", "operand 1 must be u8 or i8"),
        ("quantized_matmul %f, %w, _, _, _, %s", "the weights must be a matrix"),
        ("quantized_matmul %f, %k, _, _, _, %b {block_size=4, trans_b=true}", "inner sizes 6 and 3 differ"),
        ("quantized_matmul %f, %k, _, _, _, %b {block_size=2}", "a block for every 2 elements"),
        ("quantized_binary %x, %x, %s, %z, %s, _, %s, %z {kind=less}", "is not quantized"),
        ("quantized_binary %x, %x, %s, %z, %s, _", "takes 7..=8 operands"),
        ("byte_table %x, %rows", "256 bytes"),
        ("dynamic_quantize %x", "operand 0 must be f32"),
    ] {
        let Err(e) = text::parse(&graph("u8[..]", op)) else { panic!("{op} is accepted") };
        assert!(e.to_string().contains(why), "{op}: {e}");
    }
}
