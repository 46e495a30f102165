package collective

// Stats are a Group's counters since it began.
type Stats struct {
	// Ops counts completed operations by Kind, failed ones left out.
	Ops [Kinds]uint64
	// SentBytes and ReceivedBytes count tensor and record bytes by Kind, without headers.
	SentBytes, ReceivedBytes [Kinds]uint64
	// Peers are the same by rank; the own rank's entry is zero.
	Peers []PeerStats
	// BufferedBytes is what lies received but not yet used; PeakBufferedBytes is its largest
	// value so far.
	BufferedBytes, PeakBufferedBytes int64
	// GrantedBytes is what peers have been given leave to send and is not yet folded, here
	// or under way: with eager data, at most the receive budget. PeakGrantedBytes is its
	// largest value so far.
	GrantedBytes, PeakGrantedBytes int64
	// DroppedFrames counts frames of older generations.
	DroppedFrames uint64
}

// PeerStats are the counters towards one peer.
type PeerStats struct {
	Transport                          string // that carries frames: "shm", "lanes", "grpc"; "" at the own rank
	SentBytes, ReceivedBytes           uint64 // tensor and record bytes, without headers
	FrameBytesSent, FrameBytesReceived uint64 // with our headers and control frames, before the transport's own
	// What the kernel has counted on the TCP connections that carry the frames, handshakes included; 0 over anything else.
	SocketBytesSent, SocketBytesReceived uint64
}

// TotalSentBytes is the sum over kinds.
func (s Stats) TotalSentBytes() uint64 { return sum(s.SentBytes) }

// TotalReceivedBytes is the sum over kinds.
func (s Stats) TotalReceivedBytes() uint64 { return sum(s.ReceivedBytes) }

func sum(a [Kinds]uint64) (n uint64) {
	for _, v := range a {
		n += v
	}
	return n
}
