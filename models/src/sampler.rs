//! From logits to a token.
//!
//! Steps, in this order, which is that of Hugging Face transformers and so of the settings that model cards give:
//! penalties on tokens of the recent past, temperature, top-k, top-p (Holtzman et al., 2020), min-p, then a draw. With temperature 0
//! the largest logit wins, the lowest id among equals.

use ggml_sys::format::random::Random;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 or less takes the largest.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens until their probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of recent tokens and multiplies negative ones (Keskar et al., 2019); 1 changes nothing.
    pub repeat_penalty: f32,
    /// Recent tokens that penalties see.
    pub repeat_last_n: usize,
    /// Taken from the logit of a recent token once for each time it occurred.
    pub frequency_penalty: f32,
    /// Taken from the logit of a recent token.
    pub presence_penalty: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// R1's recommendation: temperature 0.6, top-p 0.95.
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.6,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
        }
    }
}

/// Draws tokens. The same seed and the same logits give the same tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    random: Random,
    /// Tokens and their weights, kept to spare allocations.
    candidates: Vec<(u32, f32)>,
    counts: Vec<(u32, u32)>,
}

impl Sampler {
    /// A sampler at the beginning of its draws.
    pub fn new(options: SamplerOptions) -> Self {
        Sampler { options, random: Random(options.seed), candidates: vec![], counts: vec![] }
    }

    /// How it draws.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Draws the next token; `recent` are the tokens so far, of which the last few are penalized. `logits` is changed.
    ///
    /// Logits that are not numbers are never drawn; if none is a number, token 0 is.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> u32 {
        self.penalize(logits, recent);
        if self.options.temperature <= 0.0 {
            return arg_max(logits);
        }
        self.collect(logits);
        self.keep_top_p();
        self.draw()
    }

    fn penalize(&mut self, logits: &mut [f32], recent: &[u32]) {
        let o = &self.options;
        if o.repeat_penalty == 1.0 && o.frequency_penalty == 0.0 && o.presence_penalty == 0.0 {
            return;
        }
        let mut tokens = recent[recent.len().saturating_sub(o.repeat_last_n)..].to_vec();
        tokens.sort_unstable();
        self.counts.clear();
        self.counts.extend(tokens.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)));
        for &(token, n) in &self.counts {
            let Some(l) = logits.get_mut(token as usize) else { continue };
            *l = if *l > 0.0 { *l / o.repeat_penalty } else { *l * o.repeat_penalty };
            *l -= n as f32 * o.frequency_penalty + o.presence_penalty;
        }
    }

    /// The candidates by falling weight, e^((logit − max) / temperature): top-k and min-p applied.
    fn collect(&mut self, logits: &[f32]) {
        let o = &self.options;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let c = &mut self.candidates;
        c.clear();
        let weight = |l: f32| if l == max { 1.0 } else { ((l - max) / o.temperature).exp() };
        // What is less likely than min-p can go before anything is sorted. NaN fails every comparison.
        let floor = o.min_p.max(f32::MIN_POSITIVE);
        c.extend(logits.iter().enumerate().map(|(i, &l)| (i as u32, weight(l))).filter(|t| t.1 >= floor));
        let by_weight = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if o.top_k > 0 && o.top_k < c.len() {
            c.select_nth_unstable_by(o.top_k, by_weight);
            c.truncate(o.top_k);
        }
        c.sort_unstable_by(by_weight);
    }

    fn keep_top_p(&mut self) {
        let p = f64::from(self.options.top_p);
        if p >= 1.0 {
            return;
        }
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.1)).sum();
        let mut sum = 0.0;
        let reached = self.candidates.iter().position(|c| {
            sum += f64::from(c.1);
            sum >= p * total
        });
        if let Some(i) = reached {
            self.candidates.truncate(i + 1);
        }
    }

    fn draw(&mut self) -> u32 {
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.1)).sum();
        // 53 random bits: every weight of a large vocabulary gets its share.
        let unit = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let mut at = unit * total;
        for &(token, weight) in &self.candidates {
            at -= f64::from(weight);
            if at < 0.0 {
                return token;
            }
        }
        self.candidates.first().map_or(0, |c| c.0)
    }
}

/// Index of the largest number, the first among equals.
pub fn arg_max(x: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in x.iter().enumerate() {
        if *v > x[best] || x[best].is_nan() {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> SamplerOptions {
        SamplerOptions { temperature: 1.0, top_p: 1.0, ..SamplerOptions::default() }
    }

    /// How often each token is drawn.
    fn frequencies(options: SamplerOptions, logits: &[f32], recent: &[u32]) -> Vec<f64> {
        let mut s = Sampler::new(options);
        let mut counts = vec![0.0; logits.len()];
        const N: usize = 20_000;
        for _ in 0..N {
            counts[s.sample(&mut logits.to_vec(), recent) as usize] += 1.0 / N as f64;
        }
        counts
    }

    fn near(a: &[f64], b: &[f64]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.015), "{a:?} is not {b:?}");
    }

    const LOGITS: [f32; 4] = [0.0, 1.0986123, -f32::INFINITY, 1.7917595]; // ln 1, ln 3, ln 0, ln 6

    #[test]
    fn draws_follow_the_softmax() {
        near(&frequencies(options(), &LOGITS, &[]), &[0.1, 0.3, 0.0, 0.6]);
        let hot = SamplerOptions { temperature: 0.5, ..options() };
        near(&frequencies(hot, &LOGITS, &[]), &[1.0 / 46.0, 9.0 / 46.0, 0.0, 36.0 / 46.0]);
    }

    #[test]
    fn filters_keep_what_they_say() {
        near(
            &frequencies(SamplerOptions { top_k: 2, ..options() }, &LOGITS, &[]),
            &[0.0, 1.0 / 3.0, 0.0, 2.0 / 3.0],
        );
        near(&frequencies(SamplerOptions { top_p: 0.59, ..options() }, &LOGITS, &[]), &[0.0, 0.0, 0.0, 1.0]);
        near(
            &frequencies(SamplerOptions { top_p: 0.61, ..options() }, &LOGITS, &[]),
            &[0.0, 1.0 / 3.0, 0.0, 2.0 / 3.0],
        );
        near(
            &frequencies(SamplerOptions { min_p: 0.4, ..options() }, &LOGITS, &[]),
            &[0.0, 1.0 / 3.0, 0.0, 2.0 / 3.0],
        );
    }

    #[test]
    fn penalties_see_only_the_recent_past() {
        let o = SamplerOptions { presence_penalty: 100.0, repeat_last_n: 1, ..options() };
        near(&frequencies(o, &LOGITS, &[1, 3]), &[0.25, 0.75, 0.0, 0.0]);
        let o = SamplerOptions { repeat_penalty: 1e9, ..options() };
        near(&frequencies(o, &[1.0, 0.0], &[0]), &[0.5, 0.5]);
        let o = SamplerOptions { frequency_penalty: 3f32.ln() / 2.0, ..options() };
        near(&frequencies(o, &[3f32.ln(), 0.0], &[0, 0]), &[0.5, 0.5]);
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_no_nan() {
        let mut s = Sampler::new(SamplerOptions { temperature: 0.0, ..options() });
        assert_eq!(s.sample(&mut [f32::NAN, 1.0, 2.0, 2.0], &[]), 2);
        assert_eq!(s.sample(&mut [f32::NAN, f32::NAN], &[]), 1);
    }

    #[test]
    fn nothing_but_nan_is_survived() {
        assert_eq!(Sampler::new(options()).sample(&mut [f32::NAN; 3], &[]), 0);
    }

    #[test]
    fn a_seed_repeats_itself_and_differs_from_others() {
        let draw = |seed| {
            let mut s = Sampler::new(SamplerOptions { seed, ..options() });
            (0..50).map(|_| s.sample(&mut LOGITS.to_vec(), &[])).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
