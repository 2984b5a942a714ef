//! Scales of points of a grid: the IQ formats, in which one code stands for eight or four numbers.
//!
//! With a given scale δ each group of values is to get the point g of the grid with the least Σ w (x/δ − g)². Rounding
//! each value to its nearest level leads to a *cell* of the lattice that the grid is a part of; for each cell
//! [`Grid`] knows the sixteen members nearest to its middle, the cell itself first if it is a member, and the best of
//! these sixteen is taken, by the error that it really makes.
//!
//! Where signs are apart (IQ2, IQ3) these are magnitudes. Some formats store only an even number of minuses for eight
//! values. If theirs are odd, one value has to take the wrong sign, and its error (|x|/δ + g)² is larger by 4 g |x|/δ;
//! which value, is decided together with the point. In IQ1 points are ternary with their sign, all shifted by the same
//! eighth up or down; both ways are tried.
//!
//! A sub-block has δ = d·c·(2s + 1) with c of the format and a small s. [`super_block`] goes about it as
//! [`signed`](super::signed) does: the best scale of each sub-block alone, then, from a few d, the better of the two
//! nearest s by the error that they really make, and the d that fits all of them, in turns.

use super::super::bits::F16;
use super::lanes::{self, LANES, V, settle};

/// Points of a grid near each cell of its lattice.
pub struct Grid<const D: usize> {
    points: &'static [[i8; D]],
    /// Between which levels a cell ends.
    middles: Vec<f32>,
    /// What a level more in a coordinate adds to the number of a cell.
    powers: [f32; D],
    near: Vec<Near<D>>,
}

/// The members nearest to the middle of a cell: their coordinates and codes.
struct Near<const D: usize> {
    values: [[i8; LANES]; D],
    codes: [u16; LANES],
}

/// The point that a group gets.
#[derive(Clone, Copy, Default)]
struct Chosen {
    code: u16,
    error: f32,
}

impl<const D: usize> Grid<D> {
    /// Of points whose coordinates are among ascending `levels`.
    pub fn new(points: &'static [[i8; D]], levels: &[i8]) -> Self {
        let middles = levels.windows(2).map(|l| (f32::from(l[0]) + f32::from(l[1])) / 2.0).collect();
        let mut order = vec![];
        let near = (0..levels.len().pow(D as u32)).map(|cell| {
            let middle: [i8; D] =
                std::array::from_fn(|i| levels[cell / levels.len().pow(i as u32) % levels.len()]);
            order.clear();
            order.extend(points.iter().enumerate().map(|(code, p)| {
                let off = p.iter().zip(&middle).map(|(p, m)| (i32::from(*p) - i32::from(*m)).pow(2));
                (off.sum::<i32>(), code as u16)
            }));
            order.select_nth_unstable(LANES - 1);
            order[..LANES].sort_unstable();
            let codes = std::array::from_fn(|l| order[l].1);
            Near { values: std::array::from_fn(|i| codes.map(|c| points[usize::from(c)][i])), codes }
        });
        let powers = std::array::from_fn(|i| levels.len().pow(i as u32) as f32);
        Grid { points, near: near.collect(), middles, powers }
    }

    /// The cell of a group.
    #[inline(always)]
    fn near(&self, y: &[f32; D]) -> &Near<D> {
        let mut cell = [0.0; D];
        for middle in &self.middles {
            for i in 0..D {
                cell[i] += if y[i] > *middle { self.powers[i] } else { 0.0 };
            }
        }
        // Digits are below the base: the cell exists.
        &self.near[sum(cell) as usize]
    }

    /// The coordinates of a member.
    #[inline(always)]
    fn point(&self, code: u16) -> [f32; D] {
        let mut point = [0.0; D];
        for i in 0..D {
            point[i] = f32::from(self.points[usize::from(code)][i]);
        }
        point
    }
}

impl<const D: usize> Near<D> {
    /// The best for a group; with `odd`, for one whose minuses have to become even.
    #[inline(always)]
    fn best(&self, y: &[f32; D], w: &[f32; D], odd: bool) -> Chosen {
        let mut error = [0.0; LANES];
        for i in 0..D {
            for l in 0..LANES {
                let off = y[i] - f32::from(self.values[i][l]);
                error[l] += w[i] * off * off;
            }
        }
        if odd {
            let mut least = [f32::INFINITY; LANES];
            for i in 0..D {
                for l in 0..LANES {
                    let more = w[i] * y[i] * f32::from(self.values[i][l]);
                    least[l] = if more < least[l] { more } else { least[l] };
                }
            }
            for l in 0..LANES {
                error[l] += 4.0 * least[l];
            }
        }
        let error = settle(V(error)).0;
        // Numbers that are not negative compare as their bits do; the last four of them make room for the lane.
        let mut keys = [0u32; LANES];
        for l in 0..LANES {
            keys[l] = error[l].to_bits() & !15 | l as u32;
        }
        let best = keys.iter().fold(u32::MAX, |a, &b| a.min(b));
        let lane = (best & 15) as usize;
        Chosen { code: self.codes[lane], error: error[lane] }
    }
}

/// What eight values become.
#[derive(Clone, Copy, Default)]
pub struct Eight {
    /// The code of all of them, or of each half.
    pub codes: [u16; 2],
    /// A bit for each minus; in IQ1 whether the shift is downwards.
    pub signs: u8,
}

/// What a fit needs of coded values: Σ w x q, Σ w q² and the error.
#[derive(Clone, Copy, Default)]
pub struct Sums {
    xq: f32,
    qq: f32,
    error: f32,
}

/// [`Sums`] that are being made, eight lanes of them.
#[derive(Clone, Copy, Default)]
struct Lanes {
    yq: [f32; 8],
    qq: [f32; 8],
    error: f32,
}

/// A way to code the values of a sub-block with a given scale.
pub trait Points {
    /// Codes `x`, a multiple of eight, as `scale` times integers.
    fn code(&self, x: &[f32], w: &[f32], scale: f32, out: &mut [Eight]) -> Sums;
}

/// Magnitudes in points of eight, any signs or an even number of minuses.
pub struct Eights<'a, const EVEN: bool>(pub &'a Grid<8>);

impl<const EVEN: bool> Points for Eights<'_, EVEN> {
    #[inline(always)]
    fn code(&self, x: &[f32], w: &[f32], scale: f32, out: &mut [Eight]) -> Sums {
        let inverse = 1.0 / scale;
        let mut sums = Lanes::default();
        for ((x, w), out) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0).zip(out) {
            let mut signs = minuses(x);
            let y = scaled_magnitudes(x, inverse);
            let odd = EVEN && signs.count_ones() % 2 == 1;
            let chosen = self.0.near(&y).best(&y, w, odd);
            let mut point = self.0.point(chosen.code);
            if odd {
                signs ^= 1 << flip(&y, w, &mut point);
            }
            sums.add(&y, w, &point, chosen.error);
            *out = Eight { codes: [chosen.code, 0], signs };
        }
        sums.scaled(scale)
    }
}

/// Magnitudes in points of four, any signs or an even number of minuses in eight values.
pub struct Fours<'a, const EVEN: bool>(pub &'a Grid<4>);

impl<const EVEN: bool> Points for Fours<'_, EVEN> {
    #[inline(always)]
    fn code(&self, x: &[f32], w: &[f32], scale: f32, out: &mut [Eight]) -> Sums {
        let inverse = 1.0 / scale;
        let mut sums = Lanes::default();
        for ((x, all), out) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0).zip(out) {
            let mut signs = minuses(x);
            let odd = EVEN && signs.count_ones() % 2 == 1;
            // No closures here: one that is not inlined is compiled for any machine.
            let y = scaled_magnitudes(x, inverse);
            let (halves, w) = (y.as_chunks::<4>().0, all.as_chunks::<4>().0);
            let (first, second) = (self.0.near(&halves[0]), self.0.near(&halves[1]));
            let mut chosen = [first.best(&halves[0], &w[0], false), second.best(&halves[1], &w[1], false)];
            let mut flipped = 0;
            if odd {
                // One of the halves has the flip, whichever loses less by it.
                let odd = [first.best(&halves[0], &w[0], true), second.best(&halves[1], &w[1], true)];
                flipped = usize::from(odd[1].error - chosen[1].error < odd[0].error - chosen[0].error);
                chosen[flipped] = odd[flipped];
            }
            let mut points = [self.0.point(chosen[0].code), self.0.point(chosen[1].code)];
            if odd {
                signs ^= 1 << (4 * flipped + flip(&halves[flipped], &w[flipped], &mut points[flipped]));
            }
            let point = points.as_flattened().as_chunks().0;
            sums.add(&y, all, &point[0], chosen[0].error + chosen[1].error);
            *out = Eight { codes: [chosen[0].code, chosen[1].code], signs };
        }
        sums.scaled(scale)
    }
}

/// Ternary points, times eight, of values less one (or plus one): the shift is the same for `GROUPS` groups.
pub struct Shifted<'a, const GROUPS: usize>(pub &'a Grid<8>);

impl<const GROUPS: usize> Points for Shifted<'_, GROUPS> {
    #[inline(always)]
    fn code(&self, x: &[f32], w: &[f32], scale: f32, out: &mut [Eight]) -> Sums {
        let inverse = 1.0 / scale;
        let mut sums = Lanes::default();
        let w = w.as_chunks::<8>().0.chunks_exact(GROUPS);
        for ((x, w), out) in
            x.as_chunks::<8>().0.chunks_exact(GROUPS).zip(w).zip(out.chunks_exact_mut(GROUPS))
        {
            let mut best = (Lanes { error: f32::INFINITY, ..Lanes::default() }, [Eight::default(); GROUPS]);
            for (signs, shift) in [(0, 1.0), (1, -1.0)] {
                let mut tried = (Lanes::default(), [Eight::default(); GROUPS]);
                for g in 0..GROUPS {
                    let (mut y, mut ternary) = ([0.0; 8], [0.0; 8]);
                    for i in 0..8 {
                        y[i] = x[g][i] * inverse;
                        ternary[i] = y[i] - shift;
                    }
                    let chosen = self.0.near(&ternary).best(&ternary, &w[g], false);
                    let mut point = self.0.point(chosen.code);
                    for p in &mut point {
                        *p += shift;
                    }
                    tried.0.add(&y, &w[g], &point, chosen.error);
                    tried.1[g] = Eight { codes: [chosen.code, 0], signs };
                }
                if tried.0.error < best.0.error {
                    best = tried;
                }
            }
            for i in 0..8 {
                sums.yq[i] += best.0.yq[i];
                sums.qq[i] += best.0.qq[i];
            }
            sums.error += best.0.error;
            out.copy_from_slice(&best.1);
        }
        sums.scaled(scale)
    }
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, y: &[f32; 8], w: &[f32; 8], q: &[f32; 8], error: f32) {
        for i in 0..8 {
            let wq = w[i] * q[i];
            self.yq[i] += wq * y[i];
            self.qq[i] += wq * q[i];
        }
        self.error += error;
    }

    /// Those of x, which is y · scale.
    #[inline(always)]
    fn scaled(self, scale: f32) -> Sums {
        Sums { xq: sum(self.yq) * scale, qq: sum(self.qq), error: self.error * scale * scale }
    }
}

impl Sums {
    /// The scale that fits, and what it explains.
    #[inline(always)]
    fn fit(&self) -> (f32, f32) {
        let scale = self.xq / self.qq;
        (scale, scale * self.xq)
    }
}

/// Halves are added to halves.
#[inline(always)]
fn sum<const D: usize>(mut v: [f32; D]) -> f32 {
    let mut width = D / 2;
    while width > 0 {
        for i in 0..width {
            v[i] += v[i + width];
        }
        width /= 2;
    }
    v[0]
}

#[inline(always)]
fn scaled_magnitudes(x: &[f32; 8], inverse: f32) -> [f32; 8] {
    let mut y = [0.0; 8];
    for i in 0..8 {
        y[i] = x[i].abs() * inverse;
    }
    y
}

#[inline(always)]
fn minuses(x: &[f32; 8]) -> u8 {
    x.iter().enumerate().fold(0, |bits, (i, x)| bits | u8::from(*x < 0.0) << i)
}

/// Gives the wrong sign to the coordinate that it costs the least, and says which.
#[inline(always)]
fn flip<const D: usize>(y: &[f32; D], w: &[f32; D], point: &mut [f32; D]) -> usize {
    let mut least = 0;
    for i in 1..D {
        if w[i] * y[i] * point[i] < w[least] * y[least] * point[least] {
            least = i;
        }
    }
    point[least] = -point[least];
    least
}

/// How scales are stored, and how hard to look for them.
pub struct Search {
    /// Values of a sub-block.
    pub sub: usize,
    /// c: a sub-block's scale is d·c·(2s + 1).
    pub unit: f32,
    /// The largest s.
    pub largest: u8,
    /// Integers that the value of largest magnitude is tried to come to.
    pub tried: &'static [f32],
    /// Initial d, relative to the one that brings the largest scale to the largest s.
    pub starts: &'static [f32],
    /// Fits of d.
    pub rounds: usize,
}

/// A coded super-block.
pub struct Coded {
    /// d.
    pub d: F16,
    /// s.
    pub s: [u8; 16],
    /// The values.
    pub eights: [Eight; 32],
}

/// A block's values and weights as in [`Batch`](super::lanes::Batch), in their own order.
pub struct Block {
    x: [f32; 256],
    w: [f32; 256],
    unit: f32,
}

impl Block {
    /// Values and weights of a block.
    #[inline(always)]
    pub fn load(src: &[f32], weights: Option<&[f32]>) -> Self {
        let largest = |v: &[f32]| v.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m });
        let e = lanes::exponent(largest(src));
        let factor = lanes::power_of_two(-e);
        let x = std::array::from_fn(|i| src[i] * factor);
        let w = weights.map_or([1.0; 256], |w| {
            let most = largest(w);
            std::array::from_fn(|i| lanes::relative_weight(w[i], most))
        });
        Block { x, w, unit: lanes::power_of_two(e) }
    }
}

/// The best scale of a sub-block by itself; zero where nothing is explained.
#[inline(always)]
fn ideal<P: Points>(points: &P, x: &[f32], w: &[f32], search: &Search) -> f32 {
    let largest = x.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m });
    let mut best = (0.0, 0.0);
    if largest < 1e-30 {
        return 0.0;
    }
    let mut eights = [Eight::default(); 4];
    for i in 0..=search.tried.len() {
        let scale = search.tried.get(i).map_or(best.0, |tried| largest / tried);
        if scale > 0.0 {
            let (scale, gain) = points.code(x, w, scale, &mut eights).fit();
            if gain > best.1 {
                best = (scale, gain);
            }
        }
    }
    best.0
}

/// The best d, s and codes of a super-block.
#[inline(always)]
pub fn super_block<P: Points>(points: &P, b: &Block, search: &Search) -> Coded {
    let subs = 256 / search.sub;
    let sub = |i: usize| i * search.sub..(i + 1) * search.sub;
    let mut ideals = [0f32; 16];
    for i in 0..subs {
        ideals[i] = ideal(points, &b.x[sub(i)], &b.w[sub(i)], search);
    }
    let most = ideals.iter().fold(0f32, |m, s| m.max(*s));
    let zero = Coded { d: F16::new(0.0), s: [0; 16], eights: [Eight::default(); 32] };
    // Zeros are what any other choice has to beat.
    let power = (0..256).map(|i| b.w[i] * b.x[i] * b.x[i]).sum::<f32>();
    let mut best = (power, zero);
    for start in search.starts {
        let mut d = most * start / (search.unit * f32::from(2 * search.largest + 1));
        let mut wanted = ideals;
        for _ in 0..search.rounds {
            let half = F16::new(d * b.unit);
            d = half.get() / b.unit;
            if d.is_nan() || d <= 0.0 {
                break;
            }
            let mut coded = Coded { d: half, s: [0; 16], eights: [Eight::default(); 32] };
            let (mut error, mut xs, mut ss) = (0.0, 0.0, 0.0);
            for i in 0..subs {
                let out = &mut coded.eights[i * search.sub / 8..(i + 1) * search.sub / 8];
                let (s, sums) =
                    sub_scale(points, &b.x[sub(i)], &b.w[sub(i)], wanted[i], d * search.unit, search, out);
                coded.s[i] = s;
                error += sums.error;
                let times = search.unit * f32::from(2 * s + 1);
                xs += times * sums.xq;
                ss += times * times * sums.qq;
                wanted[i] = sums.fit().0;
            }
            if error < best.0 {
                best = (error, coded);
            }
            d = xs / ss;
        }
    }
    best.1
}

/// The better of the two s nearest to what is wanted, with the codes.
#[inline(always)]
fn sub_scale<P: Points>(
    points: &P,
    x: &[f32],
    w: &[f32],
    wanted: f32,
    unit: f32,
    search: &Search,
    out: &mut [Eight],
) -> (u8, Sums) {
    let below = ((wanted / unit - 1.0) / 2.0).floor().clamp(0.0, f32::from(search.largest)) as u8;
    let mut best = (below, Sums { error: f32::INFINITY, ..Sums::default() });
    let mut eights = [Eight::default(); 4];
    for s in below..=(below + 1).min(search.largest) {
        let sums = points.code(x, w, unit * f32::from(2 * s + 1), &mut eights);
        if sums.error < best.1.error {
            best = (s, sums);
            out.copy_from_slice(&eights[..out.len()]);
        }
    }
    best
}

/// A block of 256 values in a grid's points.
pub trait Coder: bytemuck::Pod {
    /// Encodes a block. Is to be `#[inline(always)]`.
    fn encode(block: &Block) -> Self;
}

/// Encodes whole blocks.
pub fn encode<T: Coder>(on: lanes::Instructions, src: &[f32], weights: Option<&[f32]>, dst: &mut [u8]) {
    lanes::run(on, Blocks::<T> { src, weights, dst: bytemuck::cast_slice_mut(dst) });
}

struct Blocks<'a, T> {
    src: &'a [f32],
    weights: Option<&'a [f32]>,
    dst: &'a mut [T],
}

impl<T: Coder> lanes::Task for Blocks<'_, T> {
    #[inline(always)]
    fn run(self) {
        for (i, (src, dst)) in self.src.chunks_exact(256).zip(self.dst).enumerate() {
            let weights = self.weights.map(|w| &w[256 * i..][..256]);
            *dst = T::encode(&Block::load(src, weights));
        }
    }
}
