//! The engine: cores and services over the queues of one link, started and stopped as a whole.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use towpath_ring::driver::faulty::{FaultCounts, FaultPlan, Faulty};
use towpath_ring::driver::readiness::poller::Epoll;
use towpath_ring::driver::readiness::{Readiness, ReadinessConfig};
use towpath_ring::driver::uring::{Features, Uring, UringConfig};
use towpath_ring::driver::{Adopted, Driver, Remote, SocketId};
use towpath_ring::frames::tap::TapQueue;
use towpath_ring::lane::Lanes;
use towpath_stack::neighbor::Neighbors;

use crate::config::{EngineConfig, Network};
use crate::control::{Control, ServiceCounters};
use crate::core::{Core, CoreSeed, Peers, Report};
use crate::counters::{CoreCounters, Totals};
use crate::driver::DriverKind;
use crate::host::sequence::SequenceSecret;
use crate::link::{Attacher, Listener};
use crate::placement::{self, Threads};
use crate::policy::admission::Admission;

/// Frames and messages that may wait in the lane from one core to another.
const LANE_FRAMES: usize = 4096;
/// Large buffers for the streams of guests that come later, per core. Their memory is touched as it is needed.
const LINK_BUFFERS: u16 = 64;

/// A running engine.
pub struct Engine {
    threads: Threads,
    driver: DriverKind,
    control: Control,
    peers: Arc<Peers>,
    attacher: Attacher,
    counters: Vec<Arc<CoreCounters>>,
    failed: Arc<Failure>,
    faults: Option<Arc<Injected>>,
    started: Instant,
}

/// The first thing that ended a core, and an eventfd that tells of it.
struct Failure {
    event: OwnedFd,
    reason: OnceLock<String>,
}

/// What the links are told to do to frames, and what they did.
struct Injected {
    plan: FaultPlan,
    /// From and to the guest, added by each core at its end.
    done: Mutex<(FaultCounts, FaultCounts)>,
}

/// Why an engine could not start.
#[derive(Debug)]
pub enum StartError {
    /// The control thread could not start.
    Control(io::Error),
    /// The threads of the cores could not be made.
    Threads(io::Error),
    /// A core could not set up its driver.
    Driver(DriverKind, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(e) => write!(f, "the DNS and DHCP services can't start: {e}"),
            Self::Threads(e) => write!(
                f,
                "the engine's threads can't start: {e}; 'towpath doctor' shows what is missing \
                 (io_uring, or a locked-memory limit of at least 512 KiB: 'ulimit -l')"
            ),
            Self::Driver(DriverKind::Uring, e) => write!(
                f,
                "io_uring can't be set up: {e}; it may be forbidden by a seccomp profile (Docker's \
                 default does) or by kernel.io_uring_disabled; 'towpath doctor' shows which, and \
                 '--driver epoll' does without"
            ),
            Self::Driver(driver, e) => write!(f, "{driver} can't be set up: {e}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What an engine did, for the person who ran it.
#[derive(Clone, Debug)]
pub struct Summary {
    /// All cores' counters.
    pub totals: Totals,
    /// DNS and DHCP.
    pub services: ServiceCounters,
    /// What was done to frames from and to the guest, where that was asked for.
    pub faults: Option<(FaultCounts, FaultCounts)>,
    /// How long it ran.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "in {:.1} s:", self.elapsed.as_secs_f64())?;
        write!(f, "{}{}", self.totals, self.services)?;
        if let Some((up, down)) = &self.faults {
            writeln!(f, "faults from the guest: {up}")?;
            writeln!(f, "faults to the guest: {down}")?;
        }
        Ok(())
    }
}

impl Engine {
    /// Starts cores over `queues` (one per core, or fewer: then cores share them for writing and
    /// the first of each reads; none: guests come by [`Engine::attacher`]) and waits until all of them are
    /// ready for frames.
    pub fn start(config: EngineConfig, queues: Vec<TapQueue>) -> Result<Self, StartError> {
        let cores = config.cores.max(1);
        let driver = config.driver.take();
        let (control, services) = Control::start(&config, cores).map_err(StartError::Control)?;
        let dns_stream = Remote::Unix(control.dns_stream_address());
        let peers = Arc::new(Peers {
            wakers: (0..cores).map(|_| OnceLock::new()).collect(),
            stop: AtomicBool::new(false),
        });
        let counters: Vec<_> = (0..cores).map(|_| Arc::new(CoreCounters::new())).collect();
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| StartError::Control(error.into()))?;
        let failed = Arc::new(Failure {
            event,
            reason: OnceLock::new(),
        });
        let has_link = !queues.is_empty();
        let attacher = Attacher::new(Arc::clone(&peers), usize::from(has_link));
        control.watch(&attacher, u16::from(has_link));
        tell_of_fallbacks(&queues, cores);
        let queues = deal(queues, cores).map_err(|error| StartError::Driver(driver, error))?;
        let secret = SequenceSecret::random();
        let neighbors = neighbors(&config.network);
        let seeds: Vec<_> = queues
            .into_iter()
            .zip(services)
            .zip(Lanes::mesh(cores, LANE_FRAMES))
            .enumerate()
            .map(|(id, (((queue, reads_link), service), lanes))| {
                let seed = CoreSeed {
                    id,
                    has_link,
                    reads_link,
                    admission: Admission::new(config.network.clone(), config.host_loopback.clone()),
                    neighbors: neighbors.clone(),
                    limits: config.limits,
                    mtu: config.network.mtu,
                    dns_stream: dns_stream.clone(),
                    lanes,
                    peers: Arc::clone(&peers),
                    counters: Arc::clone(&counters[id]),
                    initial_sequences: secret,
                    attacher: attacher.clone(),
                    stall_timeout: config.stall_timeout,
                    isolate: config.isolate,
                };
                Mutex::new(Some((queue, service, seed)))
            })
            .collect();

        let (ready, started) = mpsc::channel::<io::Result<()>>();
        let failure = Arc::clone(&failed);
        let faults = config.faults.map(|plan| {
            Arc::new(Injected {
                plan,
                done: Mutex::default(),
            })
        });
        let injected = faults.clone();
        let driver_config = DriverConfig::new(driver, &config, has_link);
        let threads = placement::spawn(driver, cores, config.pin, move |id| {
            let Some((queue, service, seed)) = seeds[id].lock().ok().and_then(|mut s| s.take())
            else {
                return;
            };
            let injected = injected.as_deref();
            let queue = queue.into_iter().collect();
            match (&driver_config, driver) {
                (DriverConfig::Uring(config), _) => {
                    let driver = Uring::new(config, queue).inspect(|driver| {
                        if id == 0 {
                            tell_of_ring(driver.features());
                        }
                    });
                    run_core(driver, service, seed, injected, &ready, &failure);
                }
                #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
                (DriverConfig::Readiness(config), DriverKind::Kqueue) => {
                    let driver = Readiness::<towpath_ring::Kqueue>::new(config, queue);
                    run_core(driver, service, seed, injected, &ready, &failure);
                }
                (DriverConfig::Readiness(config), _) => {
                    let driver = Readiness::<Epoll>::new(config, queue);
                    run_core(driver, service, seed, injected, &ready, &failure);
                }
            }
        })
        .map_err(StartError::Threads)?;

        let engine = Self {
            threads,
            driver,
            control,
            peers,
            attacher,
            counters,
            failed,
            faults,
            started: Instant::now(),
        };
        for _ in 0..cores {
            match started.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    engine.stop();
                    return Err(StartError::Driver(driver, error));
                }
                Err(_) => {
                    engine.stop();
                    return Err(StartError::Threads(io::Error::other(
                        "a core ended at its start",
                    )));
                }
            }
        }
        Ok(engine)
    }

    /// What carries the cores' I/O.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Becomes readable when a core ended by itself: its link is gone, or its driver failed.
    pub fn failed(&self) -> BorrowedFd<'_> {
        self.failed.event.as_fd()
    }

    /// Why a core ended by itself, if one did.
    pub fn failure(&self) -> Option<&str> {
        self.failed.reason.get().map(String::as_str)
    }

    /// What gives links to this engine while it runs.
    pub fn attacher(&self) -> Attacher {
        self.attacher.clone()
    }

    /// Lets guests of `listeners` in until the engine is stopped.
    ///
    /// The descriptor hangs up when no guest can come any more and all are gone: never, where something
    /// listens.
    pub fn listen(&self, listeners: Vec<Listener>) -> io::Result<OwnedFd> {
        self.control.listen(self.attacher(), listeners)
    }

    /// All cores' counters as they are now.
    pub fn totals(&self) -> Totals {
        Totals::of(self.counters.iter().map(Arc::as_ref))
    }

    /// Ends all cores and services. Connections that are still open are closed by the host kernel.
    pub fn stop(self) -> Summary {
        self.attacher.close();
        self.peers.stop.store(true, Ordering::Relaxed);
        for waker in self.peers.wakers.iter().filter_map(OnceLock::get) {
            waker.wake();
        }
        self.threads.join();
        let services = self.control.counters();
        self.control.stop();
        let totals = Totals::of(self.counters.iter().map(Arc::as_ref));
        Summary {
            totals,
            services,
            faults: self.faults.map(|faults| *lock(&faults.done)),
            elapsed: self.started.elapsed(),
        }
    }
}

/// How the drivers of the cores are made.
enum DriverConfig {
    Uring(UringConfig),
    Readiness(ReadinessConfig),
}

impl DriverConfig {
    fn new(driver: DriverKind, config: &EngineConfig, has_link: bool) -> Self {
        let link_buffers = if has_link { 0 } else { LINK_BUFFERS };
        match driver {
            DriverKind::Uring => Self::Uring(UringConfig {
                busy_poll_ns: busy_poll_ns(config),
                link_buffers,
                ..UringConfig::default()
            }),
            _ => Self::Readiness(ReadinessConfig {
                link_buffers,
                ..ReadinessConfig::default()
            }),
        }
    }
}

fn busy_poll_ns(config: &EngineConfig) -> u64 {
    // Where cores take all processors, nobody could answer while one of them stays awake.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if config.cores >= processors {
        return 0;
    }
    u64::try_from(config.busy_poll.as_nanos()).unwrap_or(u64::MAX)
}

fn run_core<D: Driver>(
    driver: io::Result<D>,
    service: OwnedFd,
    seed: CoreSeed,
    injected: Option<&Injected>,
    ready: &mpsc::Sender<io::Result<()>>,
    failure: &Failure,
) {
    let mut driver = match driver {
        Ok(driver) => driver,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let id = seed.id;
    let _ = seed.peers.wakers[id].set(driver.waker());
    let service = driver.adopt(service, Adopted::Service);
    let Some(injected) = injected else {
        drive(driver, service, seed, ready, failure);
        return;
    };
    let plan = FaultPlan {
        seed: injected.plan.seed.wrapping_add(id as u64),
        ..injected.plan
    };
    let driver = drive(Faulty::new(driver, &plan), service, seed, ready, failure);
    let (up, down) = &mut *lock(&injected.done);
    up.add(&driver.up());
    down.add(&driver.down());
}

/// Runs a core over its driver until it ends.
fn drive<D: Driver>(
    driver: D,
    service: SocketId,
    seed: CoreSeed,
    ready: &mpsc::Sender<io::Result<()>>,
    failure: &Failure,
) -> D {
    let mut core = Core::new(driver, service, seed);
    let _ = ready.send(Ok(()));
    if let Err(error) = core.run(failure) {
        failure.tell(format!("the I/O driver failed: {error}"));
    }
    core.driver
}

/// Counts are right whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Failure {
    fn tell(&self, reason: String) {
        tracing::info!("{reason}");
        // The first reason counts.
        if self.reason.set(reason).is_ok() {
            // An eventfd that can't be written to is full of tidings already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

impl Report for Failure {
    fn link_gone(&self, error: io::Error) {
        self.tell(format!("the guest's TAP is gone: {error}"));
    }
}

/// Says once what this machine lacks and what is done instead.
fn tell_of_fallbacks(queues: &[TapQueue], cores: usize) {
    let Some(features) = queues.first().map(TapQueue::features) else {
        return;
    };
    if !features.offload_header {
        tracing::info!(
            "the TAP has no offload header: frames go one by one, each with its checksum"
        );
    } else if !(features.tso4 && features.tso6) {
        tracing::info!("the TAP has no TCP segmentation offload: frames go one by one");
    }
    if features.offload_header && !features.uso {
        tracing::info!("the TAP has no UDP segmentation offload: datagrams go one by one");
    }
    if queues.len() < cores {
        tracing::info!(
            "the TAP has {} queue(s) for {cores} cores: frames go over lanes to the others",
            queues.len()
        );
    }
}

/// Says what the kernel's io_uring lacks.
fn tell_of_ring(ring: Features) {
    if !(ring.single_issuer && ring.defer_taskrun) {
        tracing::info!("this kernel's io_uring can't defer task work: expect more interruptions");
    }
    if !ring.receive_bundles {
        tracing::info!(
            "this kernel's io_uring has no receive bundles: receives take one buffer each"
        );
    }
}

/// Gives each core a queue; cores beyond the number of queues write to a duplicate of one.
fn deal(queues: Vec<TapQueue>, cores: usize) -> io::Result<Vec<(Option<TapQueue>, bool)>> {
    if queues.is_empty() {
        return Ok((0..cores).map(|_| (None, false)).collect());
    }
    let mut shared = Vec::new();
    for core in queues.len()..cores {
        let queue = &queues[core % queues.len()];
        let fd = queue.as_fd().try_clone_to_owned()?;
        let queue = TapQueue::from_parts(fd, queue.features());
        shared.push((Some(queue), false));
    }
    let mut dealt: Vec<_> = queues
        .into_iter()
        .take(cores)
        .map(|queue| (Some(queue), true))
        .collect();
    dealt.append(&mut shared);
    Ok(dealt)
}

pub(crate) fn neighbors(network: &Network) -> Neighbors {
    Neighbors {
        gateway_mac: network.gateway_mac,
        gateway4: network.gateway4().octets(),
        host4: network.host4().octets(),
        gateway6: network.gateway6().into(),
        host6: network.host6().into(),
        link_local6: network.link_local6().into(),
        prefix6: (network.subnet6.octets(), 64),
        mtu: network.mtu,
        dns6: Some(network.gateway6().into()),
        router_lifetime_s: 1800,
    }
}
