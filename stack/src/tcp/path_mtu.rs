//! The path to the guest takes less than was thought: "fragmentation needed" (RFC 1191) and "packet
//! too big" (RFC 8201) come as ICMP errors, which anybody can forge who knows the ports.

use super::connection::Connection;
use super::options::MSS_MIN;
use super::seq::SequenceNumber;
use super::verdict::State;

impl Connection {
    /// An ICMP error says that a segment of ours did not fit. `quoted` is the sequence number in the
    /// TCP header that it quotes; `mss` is the MTU it names, less the IP and TCP headers without
    /// options (40 or 60 bytes), the measure of [`Config::mss`](super::Config::mss).
    ///
    /// Returns whether it was believed; then everything in flight is due again in smaller
    /// segments. The congestion window stays: a segment that did not fit tells nothing about
    /// congestion (RFC 8201 §5.4).
    pub fn on_packet_too_big(&mut self, quoted: SequenceNumber, mss: u16) -> bool {
        // Below this a forged error would make us send mostly headers (RFC 5927 §7.1); an
        // honest path of IPv4 may be that narrow, but then it cuts what comes.
        let mss = mss.max(MSS_MIN);
        let synchronized = self.state > State::SynReceived && self.state < State::TimeWait;
        if !synchronized || mss >= self.agreed.mss || !self.send.is_outstanding(quoted) {
            return false;
        }
        self.agreed.mss = mss;
        self.send.send_again();
        true
    }
}
