//! Choice of experts.

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Rows, SelId, View, WeightId, ensure};
use crate::reference::Machine;

/// How gate logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Over all experts (V2, Qwen).
    Softmax,
    /// Each for itself (V3, R1).
    Sigmoid,
}

/// What a group of experts is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert (DeepSeek-V2's `group_limited_greedy`).
    Max,
    /// The sum of its two best experts, bias included (DeepSeek-V3's `noaux_tc`).
    Top2Sum,
}

/// Experts are chosen inside the best groups only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Groups of equal size.
    pub n: usize,
    /// Groups that stay.
    pub used: usize,
    /// Their rank.
    pub score: GroupScore,
}

/// Chooses `n_used` experts a row. The bias takes part in the choice only; weights come from the unbiased scores.
/// Among equal scores the lower index wins. Everything is F32.
#[derive(Clone, Debug)]
pub struct Router {
    /// `[tokens, n_expert]`, gate logits.
    pub logits: View,
    /// `[n_expert]`, F32: the correction bias.
    pub bias: Option<WeightId>,
    /// Logits to scores.
    pub gating: Gating,
    /// Limits the choice.
    pub groups: Option<Groups>,
    /// Whether the weights are divided by their sum.
    pub normalize: bool,
    /// Factor of the weights, after that.
    pub scale: f32,
    /// The choice.
    pub sel: SelId,
}

/// Sums of chosen weights are not divided by less than this, F16's smallest normal number.
const MIN_SUM: f32 = 6.103_515_6e-5;

impl Router {
    /// Chooses for one row: `chosen[j]` = (expert, weight), best first.
    ///
    /// `scratch` takes `2 · n_expert` numbers.
    pub fn choose(
        &self,
        logits: &[f32],
        bias: Option<&[f32]>,
        scratch: &mut [f32],
        chosen: &mut [(u32, f32)],
    ) {
        let (scores, rank) = scratch.split_at_mut(logits.len());
        self.scores(logits, scores);
        rank.copy_from_slice(scores);
        if let Some(bias) = bias {
            rank.iter_mut().zip(bias).for_each(|(r, b)| *r += b);
        }
        if let Some(groups) = self.groups {
            keep_best_groups(groups, rank);
        }
        for (j, slot) in chosen.iter_mut().enumerate() {
            // With NaN everywhere nothing is best: any expert will do, as long as it exists.
            let best = arg_max(rank).unwrap_or(j);
            *slot = (best as u32, scores[best]);
            rank[best] = f32::NEG_INFINITY;
        }
        let sum: f32 = chosen.iter().map(|c| c.1).sum();
        let factor = if self.normalize { self.scale / sum.max(MIN_SUM) } else { self.scale };
        chosen.iter_mut().for_each(|c| c.1 *= factor);
    }

    fn scores(&self, logits: &[f32], scores: &mut [f32]) {
        match self.gating {
            Gating::Sigmoid => {
                scores.iter_mut().zip(logits).for_each(|(s, x)| *s = 1.0 / (1.0 + (-x).exp()));
            }
            Gating::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().zip(logits).for_each(|(s, x)| *s = (x - max).exp());
                let sum: f32 = scores.iter().sum();
                scores.iter_mut().for_each(|s| *s /= sum);
            }
        }
    }
}

/// Index of the largest number above −∞, the first among equals.
fn arg_max(x: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut max = f32::NEG_INFINITY;
    for (i, &v) in x.iter().enumerate() {
        if v > max {
            (best, max) = (Some(i), v);
        }
    }
    best
}

fn keep_best_groups(groups: Groups, rank: &mut [f32]) {
    let size = rank.len() / groups.n;
    let score = |g: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &v in g {
            if v > first {
                (first, second) = (v, first);
            } else if v > second {
                second = v;
            }
        }
        match groups.score {
            GroupScore::Top2Sum if size > 1 => first + second,
            GroupScore::Max | GroupScore::Top2Sum => first,
        }
    };
    // A group stays if fewer than `used` groups are better, or equal and before it.
    let scores: Vec<f32> = rank.chunks_exact(size).map(score).collect();
    for (g, group) in rank.chunks_exact_mut(size).enumerate() {
        let before = |o: usize| scores[o] > scores[g] || (scores[o] == scores[g] && o < g);
        if (0..groups.n).filter(|&o| before(o)).count() >= groups.used {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

impl Operation for Router {
    fn name(&self) -> &'static str {
        "router"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let (n, used) = (self.logits.width, g.n_used(self.sel));
        let candidates = match self.groups {
            Some(x) if x.n == 0 || !n.is_multiple_of(x.n) || x.used > x.n => 0,
            Some(x) => n / x.n * x.used,
            None => n,
        };
        ensure(
            used > 0 && used <= candidates && g.rows(self.logits.buf) == Rows::Tokens,
            self.name(),
            || format!("{used} of {n} experts in {:?}", self.groups),
        )?;
        let bias = self.bias.map_or(n, |b| g.weight(b).shape().n_elements());
        ensure(bias == n, self.name(), || format!("a bias of {bias} for {n} experts"))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.logits);
        a.sel_writes.push(self.sel);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let bias = self.bias.map(|b| m.weight(b).to_f32());
        let mut scratch = vec![0.0; 2 * self.logits.width];
        for i in 0..m.batch().len() {
            let logits = m.row(self.logits, i).to_vec();
            self.choose(&logits, bias.as_deref(), &mut scratch, m.chosen_mut(self.sel, i));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_maximum_and_by_sum_choose_differently() {
        // Group 0 has the best expert, group 1 the best pair.
        let rank = [0.9, 0.1, 0.8, 0.7];
        for (score, kept) in [(GroupScore::Max, 0), (GroupScore::Top2Sum, 2)] {
            let mut r = rank;
            keep_best_groups(Groups { n: 2, used: 1, score }, &mut r);
            assert_eq!(arg_max(&r), Some(kept));
        }
    }

    #[test]
    fn nan_scores_still_choose_experts_that_exist() {
        let mut r = [f32::NAN; 4];
        assert_eq!(arg_max(&r), None);
        r[2] = 0.0;
        assert_eq!(arg_max(&r), Some(2));
    }
}
