//! Devices beside the processor: which there are, and what of a model goes where.

use std::fmt::Write;
use std::sync::Arc;

use ggml_sys::backend::{Backend, SlotUse};
use ggml_sys::cache::LayerCache;
use ggml_sys::cpu::Cpu;
use ggml_sys::cuda::Cuda;
use ggml_sys::cuda::device::Properties;
use ggml_sys::cuda::driver::{Driver, Unavailable};
use ggml_sys::hybrid::Hybrid;
use ggml_sys::{Error as GgmlError, cuda};
use models::cost::{StepCost, streaming_rows};
use models::placement::{self, Assignment, Sizes, TooLarge, Wishes};
use models::{Engine, EngineOptions, Error, MlaForm, Model};
use serde::Serialize;

use crate::cli::args::DeviceArgs;
use crate::failure::{Failure, Result};
use crate::size::Bytes;
use crate::term::log;

/// Which devices to use, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    choice: Choice,
    wishes: Wishes,
    streaming: Streaming,
    /// Whether the user spoke of devices at all: then it is said if there are none.
    asked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// All that there are.
    Auto,
    /// None but the processor.
    Processor,
    /// Those with these numbers.
    Some(Vec<usize>),
}

/// Whether experts on the host are sent to devices for long batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    /// For batches that this is faster for.
    Auto,
    Never,
    /// For batches of so many tokens and more.
    From(usize),
}

/// What of an engine's options may be changed to fit devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leeway {
    /// The context may be shorter.
    pub context: bool,
    /// Batches may be longer.
    pub batches: bool,
}

impl DeviceSettings {
    /// Checks the options about devices.
    ///
    /// # Errors
    /// If one of them is no number or no device.
    pub fn new(args: &DeviceArgs) -> Result<Self> {
        let gpu_layers = match args.gpu_layers.as_deref() {
            None | Some("auto") => None,
            Some("all" | "-1") => Some(usize::MAX),
            Some(n) => Some(n.parse().map_err(|_| {
                Failure::usage(format!("--gpu-layers {n}"), "it is a number of layers, 'all' or 'auto'")
            })?),
        };
        let choice = match args.device.as_deref() {
            _ if gpu_layers == Some(0) => Choice::Processor,
            None | Some("auto") => Choice::Auto,
            Some("none" | "cpu") => Choice::Processor,
            Some(list) => Choice::Some(list.split(',').map(ordinal).collect::<Result<_>>()?),
        };
        let host_experts = if args.cpu_moe { Some(usize::MAX) } else { args.n_cpu_moe.map(|n| n as usize) };
        let streaming = match args.stream_experts.as_deref() {
            None | Some("auto") => Streaming::Auto,
            Some("never") => Streaming::Never,
            Some(n) => Streaming::From(n.parse().map_err(|_| {
                Failure::usage(format!("--stream-experts {n}"), "it is a number of tokens, 'auto' or 'never'")
            })?),
        };
        let slots = match args.expert_slots.as_deref() {
            None | Some("auto") => None,
            Some(n) => Some(n.parse().map_err(|_| {
                Failure::usage(format!("--expert-slots {n}"), "it is a number of experts, or 'auto'")
            })?),
        };
        let asked = gpu_layers.is_some() || host_experts.is_some() || args.device.is_some();
        Ok(DeviceSettings { choice, wishes: Wishes { gpu_layers, host_experts, slots }, streaming, asked })
    }
}

/// The number of a device: `cuda0`, or `0`.
fn ordinal(name: &str) -> Result<usize> {
    let name = name.trim();
    name.strip_prefix("cuda").unwrap_or(name).parse().map_err(|_| {
        let hint = "devices are cuda0, cuda1, … ('fathom show --devices' lists them), auto or none";
        Failure::usage(format!("there is no device {name:?}"), hint)
    })
}

/// A device as `fathom show --devices` says it.
#[derive(Serialize)]
struct Shown {
    id: String,
    name: String,
    compute_capability: String,
    memory: u64,
    free: Option<u64>,
    usable: bool,
}

#[derive(Serialize)]
struct Listing {
    devices: Vec<Shown>,
    /// Why there are none.
    problem: Option<String>,
}

/// The devices there are, as text or as JSON.
///
/// # Errors
/// If they cannot be written.
pub fn list(json: bool) -> Result<String> {
    let listing = match Driver::load() {
        Ok(driver) => Listing { devices: shown(&Arc::new(driver)), problem: None },
        Err(e) => Listing { devices: vec![], problem: Some(e.to_string()) },
    };
    if json {
        return Ok(serde_json::to_string_pretty(&listing)? + "\n");
    }
    let mut text = String::new();
    for d in &listing.devices {
        let free = d.free.map_or(String::new(), |f| format!(", {} free", Bytes(f)));
        let not = if d.usable { "" } else { "; too old: 8.0 (RTX 30 and later) is needed" };
        let (id, name, capability) = (&d.id, &d.name, &d.compute_capability);
        let _ =
            writeln!(text, "{id}  {name}, {}{free}, compute capability {capability}{not}", Bytes(d.memory));
    }
    if let Some(problem) = &listing.problem {
        let _ = writeln!(text, "no device beside the processor: {problem}");
    }
    Ok(text)
}

fn shown(driver: &Arc<Driver>) -> Vec<Shown> {
    let all = (0..driver.n_devices()).filter_map(|i| cuda::device::properties(driver, i).ok());
    all.map(|p: Properties| Shown {
        id: format!("cuda{}", p.ordinal),
        compute_capability: format!("{}.{}", p.capability.0, p.capability.1),
        memory: p.memory,
        usable: p.is_supported(),
        free: Cuda::open(driver.clone(), p.ordinal).and_then(|c| c.device().free_memory()).ok(),
        name: p.name,
    })
    .collect()
}

/// Opens the devices that are to be used; none is fine, and said if the user asked for them or something is wrong with them.
fn open(settings: &DeviceSettings) -> Result<Vec<Arc<Cuda>>> {
    if settings.choice == Choice::Processor {
        return Ok(vec![]);
    }
    let driver = match Driver::load() {
        Ok(driver) => Arc::new(driver),
        Err(e) => {
            // Most machines have no such driver, and nobody missed it.
            if settings.asked || !matches!(e, Unavailable::NoLibrary(_)) {
                log::note(&format!("{e}: everything runs on the processor"));
            }
            return Ok(vec![]);
        }
    };
    let (ordinals, all) = match &settings.choice {
        Choice::Some(list) => (list.clone(), false),
        _ => ((0..driver.n_devices()).collect(), true),
    };
    let mut devices = vec![];
    for i in ordinals {
        if i >= driver.n_devices() {
            let hint = "'fathom show --devices' lists those there are";
            return Err(Failure::usage(format!("there is no device cuda{i}"), hint));
        }
        match Cuda::open(driver.clone(), i) {
            Ok(device) => devices.push(Arc::new(device)),
            Err(e) if all => log::note(&format!("cuda{i} is left out: {e}")),
            Err(e) => return Err(Failure::new(e.to_string()).or_hint("--device none runs without it")),
        }
    }
    Ok(devices)
}

/// Those that are to be used for a model.
fn open_for(model: &Model, settings: &DeviceSettings) -> Result<Vec<Arc<Cuda>>> {
    match !settings.asked && model.gguf().size() < SMALL {
        true => Ok(vec![]),
        false => open(settings),
    }
}

/// What a device does at best.
pub struct Best {
    /// Its name.
    pub name: String,
    /// Bytes read a second.
    pub read: f64,
    /// Products of bytes a second.
    pub peak: f64,
    /// Bytes copied from pinned memory a second.
    pub copy: f64,
    /// Bytes sent from any memory a second.
    pub send: f64,
}

/// Measures the first device that is to be used for a model, if there is one.
///
/// # Errors
/// If it cannot be opened, or fails.
pub fn measure(model: &Model, settings: &DeviceSettings) -> Result<Option<Best>> {
    let devices = open_for(model, settings)?;
    let Some(device) = devices.first() else { return Ok(None) };
    let failed = |e: GgmlError| Failure::new(e.to_string()).or_hint("--device none runs without it");
    let (read, peak) = (device.read_bandwidth().map_err(failed)?, device.int8_peak().map_err(failed)?);
    let (copy, send) = (device.copy_bandwidth().map_err(failed)?, device.send_bandwidth().map_err(failed)?);
    Ok(Some(Best { name: device.device().properties().name.clone(), read, peak, copy, send }))
}

/// Bytes of a model that is answered with before a device has been started: it stays on the processor unless devices are asked for.
const SMALL: u64 = 64 << 20;

/// An engine on the devices that are to be used, as far as they have room, and on the processor. With that leeway, the context is cut
/// to what lets more of the model onto devices, down to some thousand tokens, and batches become longer where experts are sent
/// for them.
///
/// # Errors
/// If what is wished for does not fit, or the engine cannot be made.
pub fn engine(
    model: &Arc<Model>,
    cpu: Arc<Cpu>,
    options: &EngineOptions,
    settings: &DeviceSettings,
    leeway: Leeway,
) -> Result<Engine> {
    let on_processor = |cpu: Arc<Cpu>| Ok(Engine::new(model.clone(), cpu, options.clone())?);
    let devices = open_for(model, settings)?;
    if devices.is_empty() {
        return on_processor(cpu);
    }
    let mut free = free_memory(&devices)?;
    // What is free is known, what the driver adds to allocations is not: if it does not fit after all, less is tried.
    for _ in 0..4 {
        let plan = Plan::new(model, &cpu, &devices, &free, options, settings, leeway)?;
        if plan.options.n_ctx != options.n_ctx {
            log::note(&format!("the context is {} tokens, which fit on the device (-c)", plan.options.n_ctx));
        }
        if plan.is_empty() {
            log::note("no device has room for any of the model: everything runs on the processor");
            return on_processor(cpu);
        }
        let backend = combined(model, &cpu, &devices, &plan.assignment)?;
        let mut engine =
            Engine::new(model.clone(), backend, plan.options.clone())?.with_fallback(cpu.clone());
        match engine.prepare() {
            Ok(()) => {
                let slots = engine.backend().slot_use();
                ::log::info!("{}", plan.describe(model, &devices, slots));
                return Ok(engine);
            }
            Err(Error::Compute(e @ GgmlError::OutOfMemory { .. })) => {
                ::log::info!("{e}: trying with less");
                free.iter_mut().for_each(|f| *f -= *f / 8);
            }
            Err(Error::Compute(e @ GgmlError::Device { .. })) => {
                log::note(&format!("{e}: everything runs on the processor"));
                return on_processor(cpu);
            }
            Err(e) => return Err(e.into()),
        }
    }
    log::note("the devices do not give the memory that they say is free: everything runs on the processor");
    on_processor(cpu)
}

/// Where [`engine`] would place the parts of a model, in a line. Nothing of it is taken; `cpu` is asked for only if there are devices.
///
/// # Errors
/// If what is wished for does not fit, or a device does not answer.
pub fn foresee(
    model: &Arc<Model>,
    cpu: impl FnOnce() -> Result<Arc<Cpu>>,
    options: &EngineOptions,
    settings: &DeviceSettings,
    leeway: Leeway,
) -> Result<String> {
    let devices = open_for(model, settings)?;
    if devices.is_empty() {
        return Ok("everything on the CPU".into());
    }
    let free = free_memory(&devices)?;
    let plan = Plan::new(model, &*cpu()?, &devices, &free, options, settings, leeway)?;
    match plan.is_empty() {
        true => Ok("everything on the CPU: no device has room for any of the model".into()),
        false => Ok(plan.describe(model, &devices, None)),
    }
}

fn free_memory(devices: &[Arc<Cuda>]) -> Result<Vec<u64>> {
    let free: Result<Vec<u64>, GgmlError> = devices.iter().map(|d| d.device().free_memory()).collect();
    free.map_err(|e| Failure::new(e.to_string()).or_hint("--device none runs without it"))
}

/// The places of all parts, and the options with the context and the batches that go with them.
struct Plan {
    options: EngineOptions,
    assignment: Assignment,
}

impl Plan {
    fn new(
        model: &Arc<Model>,
        cpu: &Cpu,
        devices: &[Arc<Cuda>],
        free: &[u64],
        options: &EngineOptions,
        settings: &DeviceSettings,
        leeway: Leeway,
    ) -> Result<Plan> {
        let (n_ctx, assignment) = fit(model, options, free, settings, leeway.context)?;
        let options = EngineOptions { n_ctx, n_batch: options.n_batch.min(n_ctx), ..options.clone() };
        let mut plan = Plan { options, assignment };
        if plan.is_empty() {
            return Ok(plan);
        }
        let long = long_batches(model, cpu, devices, settings, &plan.options, &plan.assignment);
        if let Some(min_rows) = long {
            let Plan { options, assignment } = plan;
            let (n_batch, assignment) =
                with_streaming(model, &options, free, settings.wishes, leeway.batches, assignment, min_rows);
            plan = Plan { options: EngineOptions { n_batch, ..options }, assignment };
        }
        let layers = cache_layers(model, &plan.options);
        let sizes = Sizes::new(model, &layers, n_ctx, plan.options.n_batch);
        plan.assignment = plan.assignment.with_slots(&sizes, free, settings.wishes);
        Ok(plan)
    }

    /// Whether nothing is on a device.
    fn is_empty(&self) -> bool {
        self.assignment.used.iter().all(|b| *b == 0)
    }

    /// Where everything is, in a line. Without `slots`, which only a backend knows, the memory for them.
    fn describe(&self, model: &Model, devices: &[Arc<Cuda>], slots: Option<SlotUse>) -> String {
        let a = &self.assignment;
        let n = a.layers.len();
        let (layers, experts) = a.on_devices();
        let mut text = format!("{layers} of {n} layers on devices");
        if model.network().experts().is_some() {
            let _ = write!(text, ", the experts of {experts}");
        }
        if let Some(s) = a.streaming {
            let _ = write!(text, ", the others sent to them for batches of {} tokens and more", s.min_rows);
        }
        let room: u64 = a.slots.iter().sum();
        match slots {
            Some(s) if s.slots > 0 => {
                let _ = write!(text, ", {} slots ({}) for those used most", s.slots, Bytes(s.bytes));
            }
            None if room > 0 => {
                let _ = match a.most_slots {
                    usize::MAX => write!(text, ", up to {} for those used most", Bytes(room)),
                    n => write!(text, ", up to {n} slots for those used most"),
                };
            }
            _ => {}
        }
        for ((device, used), slots) in devices.iter().zip(&a.used).zip(&a.slots) {
            let p = device.device().properties();
            let _ = write!(text, "; cuda{}: {} of {}", p.ordinal, Bytes(used + slots), Bytes(p.memory));
        }
        let _ = write!(text, "; context {}", self.options.n_ctx);
        text
    }
}

/// The shortest context that is chosen to have more of a model on devices.
const MIN_CONTEXT: usize = 8192;

/// The context, and the place of every part.
fn fit(
    model: &Arc<Model>,
    options: &EngineOptions,
    free: &[u64],
    settings: &DeviceSettings,
    fitting: bool,
) -> Result<(usize, Assignment)> {
    let layers = cache_layers(model, options);
    let assigned = |n_ctx: usize| {
        let sizes = Sizes::new(model, &layers, n_ctx, options.n_batch);
        placement::assign(&sizes, free, settings.wishes)
    };
    let complete = |a: &Assignment| a.head != placement::HOST && !a.layers.contains(&placement::HOST);
    let longest = assigned(options.n_ctx).map_err(|e| too_large(&e));
    if longest.as_ref().is_ok_and(complete) {
        return longest.map(|a| (options.n_ctx, a));
    }
    let shorter = |n: &usize| Some(n / 2).filter(|n| fitting && *n >= MIN_CONTEXT);
    for n_ctx in std::iter::successors(shorter(&options.n_ctx), shorter) {
        if let Some(a) = assigned(n_ctx).ok().filter(complete) {
            return Ok((n_ctx, a));
        }
    }
    longest.map(|a| (options.n_ctx, a))
}

fn cache_layers(model: &Model, options: &EngineOptions) -> Vec<LayerCache> {
    let default = model.default_cache_type();
    model.network().cache(options.k_ty.unwrap_or(default), options.v_ty.unwrap_or(default))
}

/// The share of its peak at which a processor computes experts of prompts: docs/measurements.md has 30 and 38 % for whole
/// mixtures.
const SHARE_OF_PEAK: f64 = 1.0 / 3.0;

/// The tokens of a batch from which on experts that stay on the host are to be sent to the devices of their layers, if there are such: as
/// asked for, or from what processor and bus do now.
fn long_batches(
    model: &Model,
    cpu: &Cpu,
    devices: &[Arc<Cuda>],
    settings: &DeviceSettings,
    options: &EngineOptions,
    assignment: &Assignment,
) -> Option<usize> {
    let layers = cache_layers(model, options);
    if !assignment.leaves_experts(&Sizes::new(model, &layers, options.n_ctx, options.n_batch)) {
        return None;
    }
    match settings.streaming {
        Streaming::Never => return None,
        Streaming::From(n) => return Some(n.max(2)),
        Streaming::Auto => {}
    }
    let send = match devices.first()?.send_bandwidth() {
        Ok(send) => send,
        Err(e) => {
            ::log::info!("{e}: experts are not sent to devices");
            return None;
        }
    };
    let graph = model.record(MlaForm::default()).ok()?.graph;
    let macs = SHARE_OF_PEAK * cpu.int8_peak();
    let rows = streaming_rows(&StepCost::new(&graph, &layers).mixtures, send, macs)?.max(SHORTEST_LONG_BATCH);
    ::log::info!(
        "experts on the host are worth sending for batches of {rows} tokens: {:.1} GB/s to the device, {:.0} GMAC/s here",
        send / 1e9,
        macs / 1e9
    );
    Some(rows)
}

/// Tokens of a batch for which the processor is asked in any case.
const SHORTEST_LONG_BATCH: usize = 32;

/// Batches that are chosen to send experts for, the longest first.
const LONG_BATCHES: [usize; 2] = [2048, 1024];

/// The place of every part with buffers through which experts are sent to devices for batches of `min_rows` tokens, and the tokens
/// of a batch, if there is room for them: at the cost of the experts of one layer at the most.
fn with_streaming(
    model: &Arc<Model>,
    options: &EngineOptions,
    free: &[u64],
    wishes: Wishes,
    longer: bool,
    without: Assignment,
    min_rows: usize,
) -> (usize, Assignment) {
    let layers = cache_layers(model, options);
    let long = LONG_BATCHES.into_iter().filter(|n| longer && *n > options.n_batch && *n <= options.n_ctx);
    for n_batch in long.chain([options.n_batch]) {
        let sizes = Sizes::new(model, &layers, options.n_ctx, n_batch);
        let sizes = sizes.with_streaming(model, &layers, n_batch, min_rows);
        let Ok(a) = placement::assign(&sizes, free, wishes) else { continue };
        let same = a.layers == without.layers && a.head == without.head;
        if a.streaming.is_some() && same && a.on_devices().1 + 1 >= without.on_devices().1 {
            return (n_batch, a);
        }
    }
    ::log::info!("experts are not sent to devices: no room for buffers, or no batches that long");
    (options.n_batch, without)
}

fn too_large(e: &TooLarge) -> Failure {
    let what =
        format!("{} would take {} of device memory, and {} are free", e.what, Bytes(e.needed), Bytes(e.free));
    Failure::new(what).or_hint(match e.fitting {
        0 => "leave --gpu-layers out, or use --device none".into(),
        n => format!("--gpu-layers {n} fits; a shorter context (-c) leaves room for more"),
    })
}

/// The devices and the processor as one backend, or a device alone where it has everything.
fn combined(
    model: &Arc<Model>,
    cpu: &Arc<Cpu>,
    devices: &[Arc<Cuda>],
    assignment: &Assignment,
) -> Result<Arc<dyn Backend>> {
    let placement = assignment.placement(model);
    if let (Some(device), true) = (devices.first(), placement.weights.iter().all(|d| *d == 1)) {
        return Ok(device.clone());
    }
    let devices = devices.iter().map(|d| d.clone() as Arc<dyn Backend>);
    let backends = [cpu.clone() as Arc<dyn Backend>].into_iter().chain(devices).collect();
    Ok(Arc::new(Hybrid::new(backends, placement)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(gpu_layers: Option<&str>, device: Option<&str>) -> Result<DeviceSettings> {
        let (gpu_layers, device) = (gpu_layers.map(Into::into), device.map(Into::into));
        let (stream_experts, expert_slots) = (None, None);
        DeviceSettings::new(&DeviceArgs {
            gpu_layers,
            device,
            cpu_moe: false,
            n_cpu_moe: None,
            stream_experts,
            expert_slots,
        })
    }

    #[test]
    fn devices_and_layers_are_named_as_people_do() {
        let layers = |n| settings(Some(n), None).map(|s| s.wishes.gpu_layers).ok();
        assert_eq!(layers("99"), Some(Some(99)));
        assert_eq!((layers("all"), layers("-1")), (Some(Some(usize::MAX)), Some(Some(usize::MAX))));
        assert_eq!((layers("auto"), layers("many")), (Some(None), None));
        let choice = |d| settings(None, Some(d)).map(|s| s.choice).ok();
        assert_eq!(choice("cuda1,0"), Some(Choice::Some(vec![1, 0])));
        assert_eq!((choice("none"), choice("auto")), (Some(Choice::Processor), Some(Choice::Auto)));
        assert_eq!(choice("gpu"), None);
        assert_eq!(settings(Some("0"), None).unwrap().choice, Choice::Processor);
        assert!(!settings(None, None).unwrap().asked);
    }
}
