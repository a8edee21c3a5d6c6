//! One test over both data paths.

use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result};
use taskgate::{
    compile::{Gate, host_image},
    model::{Eni, Model},
};
use taskgate_ebpf::{abi::Direction, host::Left};

use super::{DataPath, Host, Kernel, SECOND, Scene, Sent, Uplink, all_gated};
use crate::sandbox::sandbox;

/// A scene and one data path over it.
pub struct Stage<'a> {
    /// The configuration.
    pub scene: Scene<'a>,
    /// What judges.
    pub path: &'a mut dyn DataPath,
    /// What it is called when a test fails.
    pub name: &'static str,
    image: &'a [AtomicU64],
}

/// Runs a test with the pure core, then with the loaded program.
pub fn on_host_and_in_kernel(test: impl Fn(&mut Stage<'_>) -> Result<()> + Sync) -> Result<()> {
    let image = host_image(5);
    let mut host = Host::new(&image, Kernel::ROOM as usize);
    test(&mut Stage::new("on the host", &image, &mut host)?).context("on the host")?;
    sandbox(|| async {
        let mut turn = Kernel::turn()?;
        let kernel = turn.as_mut().context("no kernel program")?;
        let image = kernel.image()?;
        test(&mut Stage::new("in the kernel", &image, kernel)?).context("in the kernel")
    })
}

impl<'a> Stage<'a> {
    fn new(name: &'static str, image: &'a [AtomicU64], path: &'a mut dyn DataPath) -> Result<Self> {
        path.clear()?;
        let scene = Scene::new(image)?;
        Ok(Self {
            scene,
            path,
            name,
            image,
        })
    }

    /// Begins anew with a model whose gated ENIs are on the first links, in their order.
    pub fn set(&mut self, model: Model) -> Result<()> {
        self.set_with(model, &all_gated)
    }

    /// The same, with a gate for each ENI.
    pub fn set_with(&mut self, model: Model, gate: &dyn Fn(&Eni) -> Option<Gate>) -> Result<()> {
        self.path.clear()?;
        self.scene = Scene::new(self.image)?;
        let gated: Vec<String> = model
            .enis
            .iter()
            .filter(|eni| gate(eni).is_some())
            .map(|eni| eni.id.clone())
            .collect();
        self.scene.apply(model, gate)?;
        self.scene.set_timeouts();
        for (link, eni) in Kernel::LINKS.zip(&gated) {
            self.scene.bind(link, eni)?;
            // Frames go to the task, unless a test says otherwise.
            let slot = self.scene.slot(eni)?;
            self.scene.writer.set_mac(slot, Some(super::frames::TASK_MAC));
        }
        Ok(())
    }

    /// Switches to another model.
    pub fn change(&mut self, model: Model) -> Result<()> {
        self.scene.apply(model, &all_gated)?;
        self.scene.set_timeouts();
        Ok(())
    }

    /// A packet toward the first ENI.
    pub fn ingress(&mut self, frame: &[u8]) -> Result<bool> {
        self.send(Direction::Ingress, 0, frame)
    }

    /// A packet from the first ENI.
    pub fn egress(&mut self, frame: &[u8]) -> Result<bool> {
        self.send(Direction::Egress, 0, frame)
    }

    /// A packet at the gate of the ENI with this number, from 0.
    pub fn send(&mut self, direction: Direction, eni: u32, frame: &[u8]) -> Result<bool> {
        self.path.judge(&Sent {
            frame,
            link: Kernel::LINKS.start() + eni,
            direction,
            came_by: 0,
            segments: (0, 0),
            left: Left::NOTHING,
        })
    }

    /// A packet toward the first ENI that the uplink received.
    pub fn from_wire(&mut self, frame: &[u8]) -> Result<bool> {
        self.scene.set_uplink(Uplink::Routed);
        self.path.judge(&Sent {
            frame,
            link: *Kernel::LINKS.start(),
            direction: Direction::Ingress,
            came_by: Uplink::LINK,
            segments: (0, 0),
            left: Left::NOTHING,
        })
    }

    /// A frame that the uplink receives.
    pub fn early(&mut self, uplink: Uplink, frame: &[u8]) -> Result<bool> {
        self.scene.set_uplink(uplink);
        self.path.early(frame, uplink)
    }

    /// Lets time go by.
    pub fn wait(&mut self, seconds: u32) -> Result<()> {
        self.path.age(seconds * SECOND)
    }

    /// All state, in lines.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        Ok(self.path.state(self.scene.highest)?.lines(&self.scene))
    }

    /// Asserts all state.
    #[track_caller]
    pub fn assert_lines(&mut self, what: &str, expected: &[&str]) {
        let lines = self.lines().expect("state that can be read");
        assert_eq!(lines, expected, "{what}, {}", self.name);
    }
}
