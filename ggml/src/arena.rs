//! Places for buffers in one stretch of memory, shared by those that are not needed at the same time.

use crate::memory::ALIGN;

/// First and last step in which a buffer is needed; `None` for one that never is.
pub(crate) type Life = Option<(usize, usize)>;

/// Gives each region of so many floats the lowest place that no region with an overlapping life has; gives the places, and the
/// length of all, in floats.
pub(crate) fn place(sizes: &[usize], lives: &[Life]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&r| lives[r].is_some()).collect();
    order.sort_by_key(|&r| (lives[r], std::cmp::Reverse(sizes[r])));
    let mut offsets = vec![0; sizes.len()];
    let mut placed: Vec<usize> = vec![];
    let mut end = 0;
    for r in order {
        let alive = |o: &usize| match (lives[*o], lives[r]) {
            (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
            _ => false,
        };
        let mut taken: Vec<(usize, usize)> =
            placed.iter().filter(|o| alive(o)).map(|&o| (offsets[o], offsets[o] + sizes[o])).collect();
        taken.sort_unstable();
        let mut at = 0usize;
        for (first, last) in taken {
            if at + sizes[r] <= first {
                break;
            }
            at = at.max(last.next_multiple_of(ALIGN / 4));
        }
        offsets[r] = at;
        end = end.max(at + sizes[r]);
        placed.push(r);
    }
    (offsets, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_live_together_do_not_overlap_and_others_share() {
        let sizes = [100, 50, 100, 30];
        let lives = [Some((0, 2)), Some((1, 3)), Some((3, 4)), None];
        let (at, end) = place(&sizes, &lives);
        assert!(at[1] >= 100, "the first two live together");
        assert_eq!(at[2], 0, "the third takes the place of the first");
        assert_eq!(end, at[1] + 50);
    }
}
