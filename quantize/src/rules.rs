//! Which tensor gets which type: the rules that llama.cpp's files follow, so that ours are like those people know.

use ggml_sys::format::Kind;
use ggml_sys::{GgmlType, Shape};

use crate::target::Target;

/// The output matrix; a model without one uses its token embedding.
pub(crate) const OUTPUT: &str = "output.weight";
const EMBEDDING: &str = "token_embd.weight";

/// Why a tensor keeps its type: all that is small and matters much.
pub(crate) fn is_kept(name: &str, shape: Shape) -> bool {
    shape.used().len() < 2
        || !name.ends_with("weight")
        || name.contains("_norm.weight")
        || name.contains("ffn_gate_inp.weight")
}

/// The type that is wanted for a tensor that is not [kept](is_kept), whether its rows divide or not. In a model with
/// `tied` embeddings there is no output matrix: the embedding serves as one.
pub(crate) fn wanted(target: &Target, name: &str, tied: bool) -> GgmlType {
    use GgmlType as T;
    let ty = target.ty();
    if let Some(given) = target.overrides().iter().find(|o| o.fits(name)) {
        return given.ty();
    }
    match ty {
        _ if matches!(ty.format().kind, Kind::Float { .. }) => ty,
        // Made for experts; the rest of such files is in Q8_0.
        T::MXFP4 => {
            if name.contains("_exps.") {
                ty
            } else {
                T::Q8_0
            }
        }
        _ if name == OUTPUT || (tied && name == EMBEDDING) => {
            if ty == T::Q8_0 {
                ty
            } else {
                T::Q6_K
            }
        }
        // The embedding takes less well to three values than matrices do.
        T::TQ1_0 | T::TQ2_0 if name == EMBEDDING => T::Q4_K,
        _ => ty,
    }
}

/// `ty`, or what takes its place where rows are no whole number of its blocks.
pub(crate) fn fitting(ty: GgmlType, shape: Shape) -> GgmlType {
    let fits = |ty: &GgmlType| ty.row_bytes(shape.row_len()).is_some();
    [Some(ty), smaller_blocks(ty)].into_iter().flatten().find(fits).unwrap_or(GgmlType::F16)
}

/// The type with blocks of 32 that takes the place of one with blocks of 256.
fn smaller_blocks(ty: GgmlType) -> Option<GgmlType> {
    use GgmlType as T;
    Some(match ty {
        T::Q2_K | T::Q3_K | T::TQ1_0 | T::TQ2_0 => T::Q4_0,
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        T::IQ1_S | T::IQ1_M | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S | T::IQ4_XS => {
            T::IQ4_NL
        }
        T::F32 | T::F16 | T::BF16 | T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 | T::IQ4_NL => {
            return None;
        }
        T::MXFP4 | T::NVFP4 => return None,
    })
}

/// `general.file_type` of a file whose matrices are in `ty`. Where llama.cpp numbers mixes of types instead, the number
/// of the smallest mix of that type.
pub(crate) fn file_type(ty: GgmlType) -> u32 {
    use GgmlType as T;
    match ty {
        T::F32 => 0,
        T::F16 => 1,
        T::Q4_0 => 2,
        T::Q4_1 => 3,
        T::Q8_0 => 7,
        T::Q5_0 => 8,
        T::Q5_1 => 9,
        T::Q3_K => 11,
        T::Q4_K => 14,
        T::Q5_K => 16,
        T::Q6_K => 18,
        T::IQ2_XXS => 19,
        T::IQ2_XS => 20,
        T::Q2_K => 21,
        T::IQ3_XXS => 23,
        T::IQ1_S => 24,
        T::IQ4_NL => 25,
        T::IQ3_S => 26,
        T::IQ2_S => 28,
        T::IQ4_XS => 30,
        T::IQ1_M => 31,
        T::BF16 => 32,
        T::TQ1_0 => 36,
        T::TQ2_0 => 37,
        T::MXFP4 => 38,
        T::NVFP4 => 39,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GgmlType as T;

    #[test]
    fn small_things_are_kept() {
        let shape = |dims: &[usize]| Shape::new(dims).unwrap();
        for name in
            ["blk.0.attn_q.weight", "output.weight", "token_embd.weight", "blk.3.ffn_down_exps.weight"]
        {
            assert!(!is_kept(name, shape(&[256, 2])), "{name}");
            assert!(is_kept(name, shape(&[256])) && is_kept(name, shape(&[256, 1, 1])), "{name}");
        }
        for name in
            ["blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q_norm.weight", "exp_probs_b.bias"]
        {
            assert!(is_kept(name, shape(&[256, 2])), "{name}");
        }
    }

    #[test]
    fn the_output_gets_more_bits() {
        let get = |ty, name, tied| wanted(&Target::new(ty).unwrap(), name, tied);
        for ty in [
            T::Q2_K,
            T::Q3_K,
            T::Q4_K,
            T::Q5_K,
            T::Q6_K,
            T::Q4_0,
            T::Q4_1,
            T::Q5_0,
            T::Q5_1,
            T::IQ4_NL,
            T::TQ1_0,
        ] {
            assert_eq!(get(ty, OUTPUT, false), T::Q6_K, "{ty}");
            assert_eq!(get(ty, EMBEDDING, true), T::Q6_K, "{ty}");
            assert_eq!(get(ty, "blk.0.attn_v.weight", false), ty, "{ty}");
        }
        for ty in [T::F32, T::F16, T::BF16, T::Q8_0] {
            assert_eq!((get(ty, OUTPUT, false), get(ty, EMBEDDING, true)), (ty, ty), "{ty}");
        }
        assert_eq!(get(T::Q4_K, EMBEDDING, false), T::Q4_K);
        assert_eq!(get(T::TQ2_0, EMBEDDING, false), T::Q4_K);
        assert_eq!(get(T::MXFP4, OUTPUT, false), T::Q8_0);
        assert_eq!(get(T::MXFP4, "blk.1.ffn_up_exps.weight", false), T::MXFP4);
        assert_eq!(get(T::MXFP4, "blk.1.ffn_up_shexp.weight", false), T::Q8_0);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back() {
        let cases = [
            (T::Q2_K, T::Q4_0),
            (T::Q3_K, T::Q4_0),
            (T::TQ1_0, T::Q4_0),
            (T::TQ2_0, T::Q4_0),
            (T::Q4_K, T::Q5_0),
            (T::Q5_K, T::Q5_1),
            (T::Q6_K, T::Q8_0),
            (T::IQ4_XS, T::IQ4_NL),
            (T::IQ1_S, T::IQ4_NL),
            (T::Q4_0, T::Q4_0),
            (T::F32, T::F32),
        ];
        let shape = |n| Shape::new(&[n, 3]).unwrap();
        for (ty, at_32) in cases {
            assert_eq!(fitting(ty, shape(512)), ty);
            assert_eq!(fitting(ty, shape(96)), at_32, "{ty}");
            let at_33 = if ty == T::F32 { ty } else { T::F16 };
            assert_eq!(fitting(ty, shape(33)), at_33, "{ty}");
        }
        assert_eq!(fitting(T::NVFP4, shape(96)), T::F16);
    }
}
