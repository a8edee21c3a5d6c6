//! Loads the kernel program: checks its maps against the types that this build expects, and has its programs verified.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::{Program, ProgramError, SchedClassifier},
};
use aya_log::EbpfLogger;
use log::LevelFilter;
use taskgate_ebpf::{
    abi::{self, map, sk_buff::GLOBAL as SK_BUFF},
    conntable::Seed,
};

use super::{
    gate::GatePrograms,
    load::{LoadError, LoadOptions, MapSpec, missing, program},
    pins::{self, Pins},
    signals::SignalsHeld,
    sk_buff::{self, Look, Sight, Unseen},
};
use crate::sys::{self, MmapArray};

/// The kernel program as it was built; empty in a build without it (`AYA_BUILD_SKIP`).
static GATE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/taskgate-gate"));

/// The ring buffer of aya-log's messages.
const LOG: &str = "AYA_LOGS";

/// The loaded kernel program. Gates ([`super::gate`]), tables and mapped memory that were taken from it stay valid when it is dropped.
#[derive(Debug)]
pub struct BpfObject {
    pub(super) ebpf: Ebpf,
    /// The arrays that are already mapped, by map name.
    mapped: Mutex<BTreeMap<&'static str, MmapArray<AtomicU64>>>,
    options: LoadOptions,
    seed: Seed,
    pub(super) gates: Arc<GatePrograms>,
    /// The name of the prefilter's program, once that is loaded.
    pub(super) prefilter: Option<&'static str>,
    /// The pins of its maps and the number of its image, if it outlives the process.
    pub(super) kept: Option<(Pins, u32)>,
    /// How the program reads a frame's pending offloads from the socket buffer.
    sight: Sight,
    /// Why the program cannot read a frame's pending offloads, if it cannot.
    unseen: Option<Unseen>,
}

impl BpfObject {
    /// The programs that are always loaded. Of the two prefilter programs one is loaded on request.
    pub const PROGRAMS: [&'static str; 4] = [
        abi::program::FROM_TASK,
        abi::program::TO_TASK,
        abi::program::DROP_ALL,
        abi::program::CLOCK,
    ];

    /// Loads a new kernel program: fresh maps, all programs verified, nothing attached, the image empty. It may block
    /// for a second. Everything ends with the process, except clsact filters.
    pub fn load(options: &LoadOptions) -> Result<Self, LoadError> {
        Self::load_by(options, None, &new_seed()?)
    }

    /// [`Self::load`] with gates, image and tables that outlive the process. `carried`: the seed of the tables of an earlier process,
    /// which must have the same sizes and are reused; `None`: there are none.
    ///
    /// # Errors
    /// As of [`Self::load`]; [`LoadError::Shape`] if a table is not what this build expects: existing gates and tables stay in place.
    pub fn load_pinned(options: &LoadOptions, pins: &Pins, carried: Option<&Seed>) -> Result<Self, LoadError> {
        let image = pins.image_numbers()?.last().map_or(1, |last| last.saturating_add(1));
        let seed = if let Some(seed) = carried {
            // The loader would reuse any map under the name, and create missing ones.
            Self::check_carried(options, pins)?;
            *seed
        } else {
            pins.release_maps()?;
            new_seed()?
        };
        let loaded = Self::load_by(options, Some((pins, image)), &seed);
        if loaded.is_err() {
            match carried {
                Some(_) => pins::remove(&pins.image(image))?,
                None => pins.release_maps()?,
            }
        }
        loaded
    }

    /// Checks that the tables of an earlier process, with these sizes, can be reused.
    ///
    /// # Errors
    /// A table is missing, cannot be opened, or is not what this build expects.
    pub fn check_carried(options: &LoadOptions, pins: &Pins) -> Result<(), LoadError> {
        let all = MapSpec::all(options);
        let mut carried = all.iter().filter(|shape| shape.is_carried());
        carried.try_for_each(|shape| shape.check(&pins.open_map(shape.name)?))
    }

    fn load_by(options: &LoadOptions, pins: Option<(&Pins, u32)>, seed: &Seed) -> Result<Self, LoadError> {
        if GATE.is_empty() {
            return Err(LoadError::NotBuilt);
        }
        options.check()?;
        let _held = SignalsHeld::new();
        sys::lift_memory_lock_limit();
        let (looks, unseen) = match sk_buff::looks(options.sight) {
            Ok(looks) => (looks, Unseen::Refused),
            Err(unseen) => (Vec::new(), unseen),
        };
        for look in looks {
            match Self::load_with(options, pins, seed, &look, None) {
                Err(LoadError::Program { program, cause }) if program == abi::program::FROM_TASK => {
                    tracing::debug!("`{program}` is to look at socket buffers otherwise, or not at all: {cause}");
                }
                loaded => return loaded,
            }
        }
        Self::load_with(options, pins, seed, &Look::NOT, Some(unseen))
    }

    fn load_with(
        options: &LoadOptions,
        pins: Option<(&Pins, u32)>,
        seed: &Seed,
        look: &Look,
        unseen: Option<Unseen>,
    ) -> Result<Self, LoadError> {
        let shapes = MapSpec::all(options);
        let level = options.log_level as usize as u8;
        let mut loader = EbpfLoader::new();
        for shape in &shapes {
            if let Some(entries) = shape.entries {
                loader.map_max_entries(shape.name, entries);
            }
            if let Some((pins, image)) = pins {
                match shape.name {
                    map::IMAGE => loader.map_pin_path(shape.name, pins.image(image)),
                    name if shape.is_carried() => loader.map_pin_path(name, pins.map(name)),
                    _ => &mut loader,
                };
            }
        }
        let flow_tables = options.flow_tables();
        for (maps, half) in &flow_tables {
            loader.override_global(maps.half, half, true);
        }
        let mut ebpf = loader
            .override_global(abi::SEED, &seed[..], true)
            .override_global(aya_log::LEVEL, &level, false)
            .override_global(SK_BUFF, &look.places[..], true)
            .load(&look.link(GATE))
            .map_err(LoadError::Maps)?;
        for shape in &shapes {
            shape.check(data(&ebpf, shape.name)?)?;
        }
        for name in Self::PROGRAMS {
            let of = |cause| LoadError::Program { program: name, cause };
            let program = classifier(&mut ebpf, name)?;
            verify(|| program.load()).map_err(of)?;
        }
        let gates = GatePrograms::of(&ebpf, options.instance, pins.map(|(pins, _)| pins.clone()))?;
        Ok(Self {
            ebpf,
            mapped: Mutex::default(),
            options: *options,
            seed: *seed,
            gates: Arc::new(gates),
            prefilter: None,
            kept: pins.map(|(pins, image)| (pins.clone(), image)),
            sight: look.sight,
            unseen,
        })
    }

    /// The seed of the connection tables' hash function.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Loads the prefilter's program, unless one is loaded, and returns its name: the program for frames of several buffers (Linux
    /// 5.18), or the one for older kernels.
    pub fn load_prefilter(&mut self) -> Result<&'static str, LoadError> {
        match self.load_prefilter_as(abi::program::PREFILTER) {
            Err(error) => {
                tracing::debug!("{error}, which may be too old for it");
                self.load_prefilter_as(abi::program::PREFILTER_LINEAR)
            }
            loaded => loaded,
        }
    }

    /// [`Self::load_prefilter`] with one of the two programs. If one is loaded already, that is returned instead.
    pub(super) fn load_prefilter_as(&mut self, program: &'static str) -> Result<&'static str, LoadError> {
        if let Some(loaded) = self.prefilter {
            return Ok(loaded);
        }
        let _held = SignalsHeld::new();
        let Some(Program::Xdp(xdp)) = self.ebpf.program_mut(program) else {
            return Err(missing("program", program));
        };
        verify(|| xdp.load()).map_err(|cause| LoadError::Program { program, cause })?;
        self.prefilter = Some(program);
        Ok(program)
    }

    /// How gates read the pending offloads of a frame that a task sends.
    pub fn sight(&self) -> Sight {
        self.sight
    }

    /// Why gates cannot read pending offloads; `None` if they can.
    pub fn unseen(&self) -> Option<&Unseen> {
        self.unseen.as_ref()
    }

    /// Its load options.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Maps the image: words of 8 bytes, bank after bank, as [`taskgate_ebpf::abi::image`] lays them out.
    pub fn image(&self) -> Result<MmapArray<AtomicU64>, LoadError> {
        self.words(map::IMAGE)
    }

    /// Maps the slots' usage: the words of an [`taskgate_ebpf::abi::EniUsage`] for each slot.
    pub(super) fn usage_words(&self) -> Result<MmapArray<AtomicU64>, LoadError> {
        self.words(map::USAGE)
    }

    /// Maps an array as words of 8 bytes. All callers share one mapping.
    pub(super) fn words(&self, name: &'static str) -> Result<MmapArray<AtomicU64>, LoadError> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = mapped.get(name) {
            return Ok(words.clone());
        }
        let words = self.shared(name)?;
        mapped.insert(name, MmapArray::clone(&words));
        Ok(words)
    }

    pub(super) fn shared<T: sys::Atomics>(&self, name: &'static str) -> Result<MmapArray<T>, LoadError> {
        MmapArray::new(data(&self.ebpf, name)?).map_err(|cause| LoadError::Open { map: name, cause })
    }

    /// Another handle on one of the maps.
    pub(super) fn map(&self, name: &'static str) -> Result<MapData, LoadError> {
        sys::share(data(&self.ebpf, name)?).map_err(|cause| LoadError::Map { map: name, cause })
    }

    /// The programs of gates, to be attached to links.
    pub fn gate_programs(&self) -> Arc<GatePrograms> {
        Arc::clone(&self.gates)
    }

    /// Another handle on a loaded program.
    pub fn program(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        program(&self.ebpf, name)
    }

    /// A future that passes the kernel program's messages to the `log` crate, to be spawned; `None` if its log is off. To be
    /// called once, on a tokio runtime.
    pub fn log_drain(&mut self) -> Result<Option<impl Future<Output = ()> + Send + 'static>, LoadError> {
        if self.options.log_level == LevelFilter::Off || self.ebpf.map(LOG).is_none() {
            return Ok(None);
        }
        let open = |cause| LoadError::Open { map: LOG, cause };
        let mut logger = EbpfLogger::init(&mut self.ebpf).map_err(|cause| open(io::Error::other(cause)))?;
        let ready = logger
            .as_fd()
            .try_clone_to_owned()
            .and_then(|file| taskgate_net::sys::register(file, tokio::io::Interest::READABLE))
            .map_err(open)?;
        Ok(Some(async move {
            while let Ok(mut guard) = ready.readable().await {
                guard.clear_ready();
                logger.flush();
            }
        }))
    }
}

/// Has a program verified and loaded. A pending signal stops the verifier (EAGAIN, Linux 5.0 on, commit c3494801cd17).
/// [`SignalsHeld`] blocks all but a few (SIGSTOP, a debugger): for these the load is retried, as libbpf does.
fn verify(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: u32 = 5;
    let mut tried = 1;
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) && tried < TRIES =>
            {
                tried += 1;
            }
            loaded => return loaded,
        }
    }
}

fn new_seed() -> Result<Seed, LoadError> {
    sys::random().map_err(LoadError::Seed)
}

pub(super) fn data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, LoadError> {
    match ebpf.map(name) {
        Some(
            Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data),
        ) => Ok(data),
        _ => Err(missing("map", name)),
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(missing("program", name)),
    }
}
