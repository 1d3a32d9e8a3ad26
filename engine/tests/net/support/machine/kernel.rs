//! A Linux kernel that was installed or unpacked somewhere, with the modules of a machine's network.

use std::fs;
use std::path::{Path, PathBuf};

/// The environment variable that says where to look: below it are `boot` and `lib/modules`, as in a
/// distribution's package. Otherwise the machine's own are taken.
const PLACE: &str = "TOWPATH_TESTS_KERNEL";

/// What a virtio network device on the PCI bus needs, in the order in which it is loaded.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// A kernel and the files of its modules.
pub(crate) struct Kernel {
    /// What a boot loader loads.
    pub(crate) image: PathBuf,
    /// In the order in which they are to be loaded.
    pub(crate) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Looks for one.
    ///
    /// # Errors
    /// A sentence about what is not there.
    pub(crate) fn find() -> Result<Self, String> {
        let place = std::env::var_os(PLACE).map_or_else(|| "/".into(), PathBuf::from);
        let boot = place.join("boot");
        let entries =
            fs::read_dir(&boot).map_err(|error| format!("{}: {error}", boot.display()))?;
        let mut versions: Vec<String> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some(name.strip_prefix("vmlinuz-")?.to_owned())
            })
            .collect();
        versions.sort();
        let complete = versions
            .iter()
            .find_map(|version| Self::at(&place, version));
        complete.ok_or_else(|| {
            format!(
                "no kernel with modules for virtio is in {} ({PLACE} names another place)",
                place.display()
            )
        })
    }

    /// The kernel of that version, if all of it can be read.
    fn at(place: &Path, version: &str) -> Option<Self> {
        let image = place.join("boot").join(format!("vmlinuz-{version}"));
        let directory = place.join("lib/modules").join(version).join("kernel");
        let modules: Vec<PathBuf> = MODULES.iter().map(|path| directory.join(path)).collect();
        let readable = |path: &PathBuf| fs::File::open(path).is_ok();
        (readable(&image) && modules.iter().all(readable)).then_some(Self { image, modules })
    }
}
