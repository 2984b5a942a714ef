//! Which tensors keep their type, and what becomes of those whose rows do not divide: the rules of llama.cpp's files.

use ggml_sys::{GgmlType, Shape};

/// Why a tensor keeps its type: all that is small and matters much.
pub(crate) fn is_kept(name: &str, shape: Shape) -> bool {
    shape.used().len() < 2
        || !name.ends_with("weight")
        || name.contains("_norm.weight")
        || name.contains("ffn_gate_inp.weight")
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
