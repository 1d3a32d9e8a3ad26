//! What must be true of every world when it is over.

use towpath::counters::Counter;
use towpath::internals::Usage;
use towpath_ring::driver::Driver;
use towpath_ring::driver::sim::Answer;

use crate::app::App;
use crate::plan::Level;
use crate::world::World;

/// The virtual time by which everything has to be over.
pub(crate) fn ends_at(world: &World) -> u64 {
    const S: u64 = 1_000_000_000;
    let programs = world.plan.flows.iter().map(|flow| {
        let (guest, host) = (&flow.guest_program, &flow.host_program);
        flow.starts_at + guest.lasts_ns(host.writes) + host.lasts_ns(guest.writes)
    });
    let last = programs.max().unwrap_or(world.plan.begins_at);
    // What is lost costs timeouts, and what nobody speaks of any more is found out by keepalive.
    last + match world.plan.level {
        Level::Clean => 120 * S,
        _ => 3 * 3600 * S,
    }
}

/// All that the world promises, in the order in which a break would be best understood.
pub(crate) fn check(world: &mut World) -> Result<(), String> {
    for index in 0..world.plan.flows.len() {
        check_flow(world, index).map_err(|why| format!("flow {index}: {why}"))?;
    }
    check_datagrams(world)?;
    check_memory(world)?;
    check_counters(world)
}

fn check_flow(world: &World, index: usize) -> Result<(), String> {
    let plan = &world.plan.flows[index];
    let guest = world.guest.flows[index].app.as_ref();
    let Some(guest) = guest else {
        return Err("the guest's connection never came to an end".into());
    };
    let hosts = || world.peers[index].iter().map(|peer| &peer.app);
    // A SYN that came late or again makes a connection that the guest knows nothing of.
    let host = hosts().max_by_key(|app| (app.failed.is_none(), app.read + app.written));
    if hosts().filter(|app| app.failed.is_none()).count() > 1 {
        return Err("more than one connection did not fail".into());
    }
    let over = |app: &App, who: &str| {
        if app.is_over() {
            Ok(())
        } else {
            Err(format!(
                "{who} waits for ever: wrote {} of {}, read {}, eof {}, shut {}",
                app.written, app.program.writes, app.read, app.eof, app.shut
            ))
        }
    };
    over(guest, "guest")?;
    let Some(host) = host else {
        return match guest.failed {
            Some(_) if !matches!(plan.answer, Answer::Accept { .. }) => Ok(()),
            Some(_) if world.plan.host.no_socket > 0 => Ok(()),
            Some(_) if plan.guest_program.resets_after_ns.is_some() => Ok(()),
            failed => Err(format!("the host never accepted; guest: {failed:?}")),
        };
    };
    over(host, "host")?;
    check_end(guest, host, "guest")?;
    check_end(host, guest, "host")?;
    let resets = [&plan.guest_program, &plan.host_program];
    if resets
        .iter()
        .all(|program| program.resets_after_ns.is_none())
        && world.plan.level != Level::Terrible
        // Refused for want of a socket, and a copy of its SYN accepted after that.
        && world.plan.host.no_socket == 0
        && !(guest.is_complete() && host.is_complete())
    {
        return Err(format!(
            "nobody reset it, and yet it failed: guest {:?}, host {:?}",
            guest.failed, host.failed
        ));
    }
    if (guest.failed.is_some() != host.failed.is_some())
        && !(guest.is_complete() || host.is_complete())
    {
        return Err("it failed at one end alone".into());
    }
    Ok(())
}

/// An end of file is only ever behind all that the other side wrote.
fn check_end(reader: &App, writer: &App, who: &str) -> Result<(), String> {
    if reader.read > writer.written {
        return Err(format!("{who} read more than was written"));
    }
    if reader.eof && !(writer.shut && reader.read == writer.written) {
        return Err(format!(
            "{who} saw the end after {} bytes of {} (ended: {})",
            reader.read, writer.written, writer.shut
        ));
    }
    Ok(())
}

/// In a clean world every question is answered once; in none, more often than it was doubled on the
/// way. Between several cores a lane may be full, which is a loss.
fn check_datagrams(world: &World) -> Result<(), String> {
    let datagrams = &world.guest.datagrams;
    let doubled = world.plan.up.duplicate > 0 || world.plan.down.duplicate > 0;
    let clean = world.plan.level == Level::Clean && world.plan.cores == 1;
    if datagrams.unexpected > 0 && world.plan.down.corrupt == 0 {
        return Err(format!("{} packets of no known kind", datagrams.unexpected));
    }
    let outcomes = datagrams.plans().iter().zip(&datagrams.answered);
    for (number, (plan, &count)) in outcomes.enumerate() {
        if clean && count == 0 {
            return Err(format!("{number} was never answered: {plan:?}"));
        }
        if count > 1 && !doubled {
            return Err(format!("{number} was answered {count} times: {plan:?}"));
        }
    }
    Ok(())
}

fn check_memory(world: &mut World) -> Result<(), String> {
    let usage = world.usage();
    if usage != Usage::default() {
        return Err(format!("when all was over the cores held {usage:?}"));
    }
    for core in world.cores() {
        let driver = core.driver_mut();
        // Buffers that another core gave back are seen by the next wait.
        driver.collect_buffers();
        if !driver.is_idle() {
            return Err("operations are outstanding when all is over".into());
        }
        let levels = driver.levels();
        if (levels.tap_free, levels.stream_free, levels.datagram_free)
            != (levels.tap_total, levels.stream_total, levels.datagram_total)
        {
            return Err(format!("buffers are held when all is over: {levels:?}"));
        }
        // Those made ahead, and the one to the services.
        if driver.open_sockets() > 65 {
            return Err(format!("{} sockets are open", driver.open_sockets()));
        }
    }
    Ok(())
}

fn check_counters(world: &mut World) -> Result<(), String> {
    let peers = world.peers.iter().flatten();
    let taken: u64 = peers.map(|peer| peer.stream.taken()).sum();
    let sum = |world: &mut World, counter| -> u64 {
        let cores = world.cores().iter();
        cores.map(|core| core.totals().get(counter)).sum()
    };
    let up = sum(world, Counter::BytesUp);
    let sent = world.datagram_bytes;
    // Datagrams are counted when they are given to the host, which may refuse them.
    let exact = world.plan.host.datagram_refused == 0;
    if up < taken + sent || (exact && up > taken + sent) {
        return Err(format!(
            "counted {up} bytes up, the host's sockets took {taken} and sent {sent}"
        ));
    }
    let written: u64 = world
        .cores()
        .iter()
        .map(|core| {
            let stats = core.driver().write_stats(towpath_ring::driver::LinkId(0));
            stats.frames + stats.full
        })
        .sum();
    let out = sum(world, Counter::FramesOut) + sum(world, Counter::IcmpErrorsOut);
    if out != written {
        return Err(format!("counted {out} frames out, the link got {written}"));
    }
    let opened = sum(world, Counter::TcpOpened) + sum(world, Counter::RefusedSockets);
    if opened < world.plan.flows.len() as u64 {
        return Err(format!("only {opened} connections were counted"));
    }
    Ok(())
}
