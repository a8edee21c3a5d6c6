//! The BPF programs. They return `TC_ACT_UNSPEC` for allowed packets, so that later tc programs still run.
#![expect(
    unsafe_code,
    reason = "helpers, maps and packet memory are the kernel's: nowhere else in the program"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the entry points get their context by value"
)]

mod conntable;
mod frame;
mod maps;
mod opaque;
mod skb;
mod tables;

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    helpers::generated::bpf_jiffies64,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;
use frame::{SkbFrame, SkbHeader, XdpFrame, XdpHeader};
use opaque::Opaque;
use skb::Behind;
use tables::Kernel;
use taskgate_ebpf::{
    abi::Outcome,
    packet::Unparsed,
    policy::Control,
    verdict::{self, FromTask, Hook, ToTask},
};

/// The gate for packets that a task sends: egress rules.
#[classifier]
#[inline(always)]
pub(crate) fn from_task(ctx: TcContext) -> i32 {
    gate::<_, true>(&ctx, FromTask)
}

/// The gate for packets that are sent to a task: ingress rules.
#[classifier]
#[inline(always)]
pub(crate) fn to_task(ctx: TcContext) -> i32 {
    gate::<_, false>(&ctx, ToTask(SkbHeader(&ctx)))
}

/// Drops every packet: closes links that cannot be judged.
#[classifier]
#[inline(always)]
pub(crate) fn drop_all(_: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Returns the low 32 bits of jiffies: user space measures their rate with it.
#[classifier]
#[inline(always)]
pub(crate) fn clock(_: TcContext) -> i32 {
    // SAFETY: the helper takes nothing and only reads the kernel's clock.
    unsafe { bpf_jiffies64() as i32 }
}

#[inline(always)]
fn gate<D: Hook, const SENT: bool>(ctx: &TcContext, way: D) -> i32 {
    let Some((scratch, opaque, span)) = maps::scratch() else {
        return TC_ACT_SHOT;
    };
    let behind = if SENT { Behind::of(ctx, span) } else { Behind::NOTHING };
    let mut parsed = Err(Unparsed::Short);
    // A second attempt follows only if headers lay outside the linear part and were pulled in.
    for attempt in 0..2 {
        parsed = verdict::read(&SkbFrame::<SENT>::new(ctx, opaque, behind, || trunk(opaque)), scratch);
        if attempt == 1 || !matches!(parsed, Err(Unparsed::Short)) || !frame::pull(ctx) {
            break;
        }
    }
    let outcome = verdict::decide(&Kernel(opaque), way, scratch, parsed);
    match outcome {
        Outcome::Pass(_) => TC_ACT_UNSPEC,
        Outcome::Drop(reason) => {
            debug!(
                ctx,
                "dropped on link {}: direction {}, reason {}",
                scratch.packet.link,
                D::DIRECTION as u8,
                reason as u8
            );
            TC_ACT_SHOT
        }
    }
}

/// The trunk's ifindex.
#[inline(always)]
fn trunk(opaque: Opaque) -> u32 {
    Control::read(&Kernel(opaque)).map_or(0, |control| control.trunk())
}

/// The prefilter on the uplink: drops packets from the wire that the task's gate would deny.
#[xdp(frags)]
#[inline(always)]
pub(crate) fn prefilter(ctx: XdpContext) -> u32 {
    uplink::<true>(&ctx)
}

/// The same for kernels without multi-buffer XDP.
#[xdp]
#[inline(always)]
pub(crate) fn prefilter_linear(ctx: XdpContext) -> u32 {
    uplink::<false>(&ctx)
}

#[inline(always)]
fn uplink<const FRAGS: bool>(ctx: &XdpContext) -> u32 {
    // Without scratch memory, leave the packet to the gate.
    let Some((scratch, opaque, _)) = maps::scratch() else {
        return XDP_PASS;
    };
    let Some((frame, tag)) = XdpFrame::new::<FRAGS>(ctx, opaque) else {
        return XDP_PASS;
    };
    if frame.is_merged::<FRAGS>(ctx) {
        return XDP_PASS;
    }
    match verdict::prefilter(&Kernel(opaque), &frame, XdpHeader(ctx), tag, scratch) {
        None => XDP_PASS,
        Some(reason) => {
            debug!(
                ctx,
                "dropped early on link {}: reason {}", scratch.packet.link, reason as u8
            );
            XDP_DROP
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program that can reach this loop.
    loop {}
}

/// The licence, which the kernel checks before it allows GPL-only helpers: the kernel program is also offered under GPL-2.0.
// SAFETY: nothing else has this name or section.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
