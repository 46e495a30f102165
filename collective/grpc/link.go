package grpc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/zerofleet/zerofleet/collective/internal/engine"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/collective/lanes"
	"github.com/zerofleet/zerofleet/collective/shm"
)

// stream is what a client's and a server's stream have in common.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

var errLinkClosed = errors.New("link closed")

// link is the pair of streams with one peer, on one connection. It implements engine.Link.
type link struct {
	peer       int
	chunkBytes int
	conn       net.Conn // under gRPC and TLS
	hangUp     func()   // what else to release after the connection, nil for nothing
	closed     chan struct{}
	readers    sync.WaitGroup

	mu      sync.Mutex
	over    bool
	streams [2]stream // control, bulk; nil until it is there
	ready   [2]bool   // the stream's handshake is done
	sends   sync.WaitGroup

	// Once both streams are ready, frames go over lane, where there is one.
	token  token
	conns  [uses]net.Conn // that the peer has opened for it
	memory chan *shm.Peer // over one of them, when both sides have the other's page
	lane   *lanes.Link
	by     Transport
}

func newLink(peer, chunkBytes int, conn net.Conn, hangUp func()) *link {
	return &link{peer: peer, chunkBytes: chunkBytes, conn: conn, hangUp: hangUp, closed: make(chan struct{})}
}

func index(bulk bool) int {
	if bulk {
		return 1
	}
	return 0
}

// ChunkBytes is engine.Link's.
func (l *link) ChunkBytes() int { return l.chunkBytes }

// carrier is what the engine sends over.
func (l *link) carrier() engine.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lane != nil {
		return l.lane
	}
	return l
}

// transport says what that is.
func (l *link) transport() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lane != nil {
		return string(l.by)
	}
	return string(Stream)
}

// socketBytes is what the kernel has counted on the connections that carry frames.
func (l *link) socketBytes() (sent, received uint64) {
	conns := []net.Conn{l.conn}
	l.mu.Lock()
	if l.lane != nil {
		conns = []net.Conn{l.lane.Control, l.lane.Bulk}
	}
	l.mu.Unlock()
	for _, c := range conns {
		s, r := socketBytes(c)
		sent, received = sent+s, received+r
	}
	return sent, received
}

// Lends and Fresh are engine.Link's: nothing is lent over gRPC.
func (l *link) Lends([]byte) bool { return false }
func (l *link) Fresh() bool       { return true }

// add gives the link one of its streams. It is false once the link is closed, or when that
// stream is there; else the caller must call read.
func (l *link) add(bulk bool, s stream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := index(bulk)
	if l.over || l.streams[i] != nil {
		return false
	}
	l.streams[i] = s
	l.readers.Add(1)
	return true
}

// greeted notes that a stream's handshake is done: others may send on it now.
func (l *link) greeted(bulk bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready[index(bulk)] = true
}

// complete reports whether both streams are ready.
func (l *link) complete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready[0] && l.ready[1]
}

// Send is engine.Link's.
func (l *link) Send(bulk bool, f *frame.Outgoing) error {
	l.mu.Lock()
	s := l.streams[index(bulk)]
	if l.over || s == nil {
		l.mu.Unlock()
		return errLinkClosed
	}
	l.sends.Add(1)
	l.mu.Unlock()
	defer l.sends.Done()
	return s.SendMsg(f)
}

// read hands a stream's frames to the engine until the stream ends.
func (l *link) read(e *engine.Engine, bulk bool, s stream) {
	defer l.readers.Done()
	for {
		var r received
		if err := s.RecvMsg(&r); err != nil {
			e.Lost(l.peer, bulk, lossCause(err))
			return
		}
		if r.err == nil && l.carrier() != engine.Link(l) { // a peer's frames come one after the other
			r.err = fmt.Errorf("a %s frame over gRPC, which %s has replaced", r.frame.Kind, l.transport())
			r.frame.Free()
		}
		if r.err != nil {
			e.Reject(l.peer, r.err)
			continue
		}
		e.Deliver(l.peer, bulk, r.frame)
	}
}

// lossCause says in few words how a stream ended.
func lossCause(err error) error {
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
		return errors.New("the peer closed it")
	}
	return plain(err)
}

// Close is engine.Link's. It may be called more than once.
func (l *link) Close() {
	l.mu.Lock()
	first := !l.over
	l.over = true
	l.mu.Unlock()
	if first {
		for _, c := range l.conns {
			if c != nil {
				_ = c.Close() // an offer that was not taken up
			}
		}
		close(l.closed)
		_ = l.conn.Close() // first: gRPC would wait for its writer, which may be stuck
		if l.hangUp != nil {
			l.hangUp()
		}
	}
	l.sends.Wait()
	l.readers.Wait()
}

// waitClosed is for a stream's handler on the server: the stream must not end before the
// last send on it has.
func (l *link) waitClosed() {
	<-l.closed
	l.sends.Wait()
}
