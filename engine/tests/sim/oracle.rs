//! What must be true of every world when it is over.

use towpath::config::STALL_TIMEOUT;
use towpath::counters::Counter;
use towpath::internals::Usage;
use towpath::link::Departure;
use towpath_ring::driver::sim::Answer;
use towpath_ring::driver::{Driver, Errno};

use crate::app::App;
use crate::guest::stream::{Fate, StreamLink};
use crate::plan::Level;
use crate::seat::Seat;
use crate::world::World;

const S: u64 = 1_000_000_000;

/// The virtual time by which everything has to be over.
pub(crate) fn ends_at(world: &World) -> u64 {
    let guests = 0..world.seats.len();
    guests
        .map(|guest| guest_ends_at(world, guest))
        .max()
        .unwrap_or(world.plan.begins_at)
}

/// The virtual time by which everything of one guest has to be over, whatever others do.
fn guest_ends_at(world: &World, guest: usize) -> u64 {
    let flows = world.plan.flows.iter().filter(|flow| flow.owner == guest);
    let programs = flows.map(|flow| {
        let (guest, host) = (&flow.guest_program, &flow.host_program);
        flow.starts_at + guest.lasts_ns(host.writes) + host.lasts_ns(guest.writes)
    });
    let stream = world.seats[guest].stream().map(StreamLink::plan);
    let fate = stream.map(|plan| match plan.fate {
        Fate::Stays => plan.joins_at + 3 * S,
        Fate::Leaves { at } => at,
        Fate::Pauses { at, for_ns } => at + 2 * for_ns,
        Fate::HalfFrame { at } | Fate::Babbles { at } => at + 60 * S,
    });
    let last = programs.chain(fate).max().unwrap_or(world.plan.begins_at);
    // What is lost costs timeouts, and what nobody speaks of any more is found out by keepalive.
    last + match world.plan.level {
        Level::Clean => 120 * S,
        _ => 3 * 3600 * S,
    }
}

/// All that the world promises, in the order in which a break would be best understood.
pub(crate) fn check(world: &mut World) -> Result<(), String> {
    for guest in 0..world.seats.len() {
        check_guest(world, guest).map_err(|why| format!("guest {guest}: {why}"))?;
    }
    for (index, flow) in world.plan.flows.iter().enumerate() {
        let checked = match has_stayed(&world.seats[flow.owner]) {
            true => check_flow(world, index),
            false => check_orphan(world, index),
        };
        checked.map_err(|why| format!("flow {index}: {why}"))?;
    }
    for seat in world.seats.iter().filter(|seat| has_stayed(seat)) {
        check_datagrams(world, seat)?;
    }
    check_memory(world)?;
    check_counters(world)
}

/// Whether a guest was there until all was over.
fn has_stayed(seat: &Seat) -> bool {
    seat.stream().is_none_or(|stream| stream.stayed)
}

/// Whether a guest stops reading for longer than a handshake waits.
fn is_deaf_for_long(seat: &Seat) -> bool {
    let fate = seat.stream().map(|stream| stream.plan().fate);
    matches!(fate, Some(Fate::Pauses { for_ns, .. }) if for_ns >= 60 * S)
}

/// Each guest is there until it leaves, or until it has earned to be dismissed, and no other notices.
fn check_guest(world: &World, guest: usize) -> Result<(), String> {
    let seat = &world.seats[guest];
    let by = guest_ends_at(world, guest);
    if seat.done_at.is_none_or(|at| at > by) {
        return Err(format!(
            "it was to be through by {by}, not {:?}",
            seat.done_at
        ));
    }
    let Some(stream) = seat.stream() else {
        return Ok(());
    };
    let fate = stream.plan().fate;
    let Some((at, why)) = &stream.departed else {
        return Err("the core never let it go".into());
    };
    let stayed = has_stayed(seat);
    // What it took last it took a moment before.
    let patience = STALL_TIMEOUT.as_nanos() as u64;
    let right = match (fate, why) {
        (Fate::Stays, Departure::Left) => stayed,
        (Fate::Pauses { at: from, .. }, Departure::Dismissed(_)) => *at + S >= from + patience,
        (Fate::Pauses { .. }, Departure::Left) => stayed,
        (Fate::Leaves { .. }, Departure::Left) => true,
        (Fate::HalfFrame { at: from }, Departure::Dismissed(_)) => *at + S >= from + patience,
        (Fate::Babbles { at: from }, Departure::Dismissed(_)) => *at >= from,
        _ => false,
    };
    if right {
        Ok(())
    } else {
        Err(format!("{fate:?} ended as {why:?} at {at}"))
    }
}

/// A connection of a guest that is gone: what the guest was told to have arrived went to the host's side,
/// which learnt that no more comes, and took no cut for an end.
fn check_orphan(world: &World, index: usize) -> Result<(), String> {
    let guest = world.guest_flow(index);
    let acknowledged = guest.acknowledged();
    for peer in &world.peers[index] {
        let app = &peer.app;
        if !app.is_over() {
            return Err(format!(
                "the guest is gone, and the host waits for ever: wrote {} of {}, read {}, eof {}",
                app.written, app.program.writes, app.read, app.eof
            ));
        }
        match &guest.app {
            Some(guest) => {
                check_end(app, guest, "host")?;
                check_end(guest, app, "guest")?;
            }
            None if app.eof || app.read > 0 => {
                return Err("the host read what the guest never wrote".into());
            }
            None => {}
        }
    }
    let gave_up = |app: &App| app.failed == Some(Errno::CANCELED);
    let mut peers = world.peers[index].iter();
    let taken = world.peers[index].iter().map(|peer| peer.stream.taken());
    let taken = taken.max().unwrap_or(0);
    if taken < acknowledged && !peers.any(|peer| gave_up(&peer.app)) {
        return Err(format!(
            "{acknowledged} bytes were acknowledged to a guest that left, {taken} were handed over"
        ));
    }
    Ok(())
}

fn check_flow(world: &World, index: usize) -> Result<(), String> {
    let plan = &world.plan.flows[index];
    let guest = world.guest_flow(index).app.as_ref();
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
        && !is_deaf_for_long(&world.seats[plan.owner])
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
fn check_datagrams(world: &World, seat: &Seat) -> Result<(), String> {
    let datagrams = &seat.guest.datagrams;
    let doubled = world.plan.up.duplicate > 0 || world.plan.down.duplicate > 0;
    let lanes = world.plan.cores > 1 && world.plan.guests.is_empty();
    let clean = world.plan.level == Level::Clean && !lanes;
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
        let free = [
            levels.tap_free,
            levels.stream_free,
            levels.link_free,
            levels.datagram_free,
        ];
        let total = [
            levels.tap_total,
            levels.stream_total,
            levels.link_total,
            levels.datagram_total,
        ];
        if free != total {
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
    let streams = world.seats.iter().filter_map(Seat::stream);
    let read: u64 = streams.map(|stream| stream.frames).sum();
    let is_crowd = !world.plan.guests.is_empty();
    let switched = sum(world, Counter::FramesSwitched);
    if (!is_crowd && out != written) || read > out + switched {
        return Err(format!(
            "counted {out} frames out, the link got {written}; of {switched} more, guests read {read}"
        ));
    }
    let opened = sum(world, Counter::TcpOpened) + sum(world, Counter::RefusedSockets);
    let stayed = world.plan.flows.iter().map(|flow| &world.seats[flow.owner]);
    let stayed = stayed.filter(|seat| has_stayed(seat)).count();
    if opened < stayed as u64 {
        return Err(format!("only {opened} connections were counted"));
    }
    let came_and_left = (
        sum(world, Counter::GuestsCame),
        sum(world, Counter::GuestsLeft),
    );
    let guests = world.plan.guests.len() as u64;
    if came_and_left != (guests, guests) {
        return Err(format!("{guests} guests, counted {came_and_left:?}"));
    }
    Ok(())
}
