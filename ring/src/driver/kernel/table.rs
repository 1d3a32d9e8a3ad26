//! The table of a driver's sockets.

use std::io;

use rustix::io::Errno;

use crate::driver::SocketId;

/// An id is a generation (12 bits) and an index.
const INDEX_BITS: u32 = 20;
const SOCKETS_MAX: usize = 1 << INDEX_BITS;

/// An id that no socket ever has.
pub(in crate::driver) const NO_SOCKET: SocketId = SocketId(u32::MAX);

/// What a driver knows of a socket.
pub(in crate::driver) trait TableSocket {
    /// Whether it is not being closed: the caller may use it.
    fn is_open(&self) -> bool;
}

/// All sockets of a driver.
#[derive(Debug)]
pub(in crate::driver) struct SocketTable<S> {
    entries: Vec<Entry<S>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<S> {
    generation: u16,
    socket: Option<Box<S>>,
}

impl<S> Default for SocketTable<S> {
    fn default() -> SocketTable<S> {
        SocketTable {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<S: TableSocket> SocketTable<S> {
    /// Adds a socket; `EMFILE` (and the socket is closed) if the table is full.
    pub(in crate::driver) fn add(&mut self, socket: S) -> io::Result<SocketId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < SOCKETS_MAX - 1 => {
                self.entries.push(Entry {
                    generation: 0,
                    socket: None,
                });
                (self.entries.len() - 1) as u32
            }
            None => return Err(Errno::MFILE.into()),
        };
        let entry = &mut self.entries[index as usize];
        entry.socket = Some(Box::new(socket));
        Ok(SocketId(u32::from(entry.generation) << INDEX_BITS | index))
    }

    /// The index of an open socket.
    pub(in crate::driver) fn index(&self, id: SocketId) -> Option<u32> {
        let index = id.0 & (SOCKETS_MAX as u32 - 1);
        let entry = self.entries.get(index as usize)?;
        let open = entry.socket.as_ref().is_some_and(|socket| socket.is_open());
        (open && u32::from(entry.generation) == id.0 >> INDEX_BITS).then_some(index)
    }

    /// An open socket.
    pub(in crate::driver) fn open(&self, id: SocketId) -> Option<&S> {
        let index = self.index(id)?;
        self.entries[index as usize].socket.as_deref()
    }

    /// An open socket.
    pub(in crate::driver) fn open_mut(&mut self, id: SocketId) -> Option<&mut S> {
        let index = self.index(id)?;
        self.at(index)
    }

    /// The socket at an index, open or closing.
    pub(in crate::driver) fn at(&mut self, index: u32) -> Option<&mut S> {
        self.entries.get_mut(index as usize)?.socket.as_deref_mut()
    }

    /// Takes the socket out.
    pub(in crate::driver) fn remove(&mut self, index: u32) -> Option<Box<S>> {
        let entry = self.entries.get_mut(index as usize)?;
        let socket = entry.socket.take()?;
        entry.generation = (entry.generation + 1) & 0xfff;
        self.free.push(index);
        Some(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        open: bool,
    }

    impl TableSocket for Fake {
        fn is_open(&self) -> bool {
            self.open
        }
    }

    #[test]
    fn an_id_dies_with_its_socket() {
        let mut sockets = SocketTable::default();
        let first = sockets.add(Fake { open: true }).unwrap();
        let index = sockets.index(first).unwrap();
        sockets.at(index).unwrap().open = false;
        assert!(sockets.index(first).is_none(), "closing");
        sockets.remove(index).unwrap();
        let second = sockets.add(Fake { open: true }).unwrap();
        assert_eq!(sockets.index(second), Some(index));
        assert_ne!(first, second);
        assert!(sockets.open(first).is_none());
        assert!(sockets.index(NO_SOCKET).is_none());
    }
}
