//! What a model takes of the machine's memory, and the context that fits.

use std::path::{Path, PathBuf};

use ggml_sys::GgmlType;

use crate::model::Model;

/// The shortest context that is used where the model allows it and nobody asked, even if memory seems too small for it: a
/// conversation needs as much, and the cache is committed only as it fills.
const MIN_CONTEXT: usize = 2048;

/// Bytes of a model at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights, in the map.
    pub weights: u64,
    /// Forms that were derived at load and are not in the map.
    pub derived: u64,
    /// Cache bytes of a position.
    pub per_position: u64,
    /// Positions that the model was made for.
    pub n_ctx_train: usize,
    /// Memory that the machine can give, if that can be told.
    pub available: Option<u64>,
}

impl MemoryPlan {
    /// Looks at the model and at the machine.
    pub fn new(model: &Model, k_ty: Option<GgmlType>, v_ty: Option<GgmlType>) -> MemoryPlan {
        let default = model.default_cache_type();
        let layers = model.network().cache(k_ty.unwrap_or(default), v_ty.unwrap_or(default));
        let file: u64 = model.gguf().tensors().iter().map(|t| t.bytes().len() as u64).sum();
        let own = |t: &ggml_sys::Tensor| model.gguf().tensor(t.name()).is_none();
        let derived =
            model.weights().iter().filter(|(_, t)| own(t)).map(|(_, t)| t.bytes().len() as u64).sum();
        MemoryPlan {
            weights: file,
            derived,
            per_position: layers.iter().filter_map(|l| l.bytes_per_position()).sum::<usize>() as u64,
            n_ctx_train: model.base().n_ctx_train,
            available: available(),
        }
    }

    /// The context to use unless told otherwise: what the model allows, cut to what fits beside the weights. Weights that do
    /// not fit are read from the disk again and again in any case, so then half of the memory is left to them.
    pub fn default_context(&self) -> usize {
        let Some(available) = self.available else { return self.n_ctx_train };
        let room = available.saturating_sub(available / 10).saturating_sub(self.derived);
        let room = room.saturating_sub(self.weights.min(room / 2));
        let fits = usize::try_from(room / self.per_position.max(1)).unwrap_or(usize::MAX);
        // Whole chunks of the cache.
        let fits = (fits / 256 * 256).max(MIN_CONTEXT);
        self.n_ctx_train.min(fits)
    }
}

/// Memory that processes can still be given: of the machine, or of the control group if that has less. `None` where that
/// cannot be told.
pub fn available() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let in_groups = group_folders(&groups).filter_map(|folder| left_in(&folder));
    meminfo("MemAvailable:").into_iter().chain(in_groups).min()
}

fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Folders of the control groups that bound this process by `/proc/self/cgroup`: its own and all above it, of version 2 or of
/// version 1's controller of memory. In a container the mount may begin at its own group, which is then the last here.
fn group_folders(groups: &str) -> impl Iterator<Item = PathBuf> {
    let folder = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let root = match controllers {
            "" => "/sys/fs/cgroup",
            c if c.split(',').any(|c| c == "memory") => "/sys/fs/cgroup/memory",
            _ => return None,
        };
        Some((PathBuf::from(root), path.trim_start_matches('/').to_owned()))
    };
    let found: Vec<_> = groups.lines().filter_map(folder).collect();
    found
        .into_iter()
        .flat_map(|(root, path)| Path::new(&path).ancestors().map(|p| root.join(p)).collect::<Vec<_>>())
}

/// What the limit of a control group leaves; its page cache, which it can give back, does not count as used.
fn left_in(folder: &Path) -> Option<u64> {
    let number = |file: &str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let value = |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
    let used = value("anon ").or_else(|| value("total_rss ")).unwrap_or(0);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(available: u64, weights: u64) -> MemoryPlan {
        MemoryPlan {
            weights,
            derived: 0,
            per_position: 1 << 20,
            n_ctx_train: 131_072,
            available: Some(available),
        }
    }

    #[test]
    fn the_context_is_cut_to_what_fits_in_whole_chunks() {
        assert_eq!(plan(1 << 40, 0).default_context(), 131_072);
        // 20 GiB, a tenth kept free, 8 GiB of weights: 10 GiB for the cache.
        assert_eq!(plan(20 << 30, 8 << 30).default_context(), 10 * 1024);
        assert_eq!(plan(1 << 30, 400 << 30).default_context(), MIN_CONTEXT);
        assert_eq!(MemoryPlan { available: None, ..plan(0, 0) }.default_context(), 131_072);
    }

    #[test]
    fn a_process_is_bound_by_its_groups_and_all_above_them() {
        let folders = |text: &str| group_folders(text).map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            folders("0::/user.slice/run-1.scope\n"),
            ["/sys/fs/cgroup/user.slice/run-1.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/"]
        );
        assert_eq!(
            folders("5:cpu,cpuacct:/a\n4:memory:/a\n1:name=systemd:/a\n"),
            ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/"]
        );
        assert_eq!(folders("0::/\nnonsense\n"), ["/sys/fs/cgroup/"]);
    }
}
