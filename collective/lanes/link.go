// Package lanes carries a Group's frames over connections of its own, which a gRPC link agreed on and authenticated: one for
// control frames and one for tensors, written from the tensor's memory and read into place. The connections are TCP, TLS, or
// unix sockets between processes of one host, which may also lend each other memory (collective/shm).
package lanes

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/engine"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// Lender is how two processes read each other's memory.
type Lender interface {
	// Ref says where b lies in what this process lends, false where it does not.
	Ref(b []byte) (frame.Ref, bool)
	// At is memory that the peer lends. It waits for memory that is still being passed, until the Lender is closed.
	At(frame.Ref) ([]byte, error)
	// Fresh reports whether the peer still lends what it lent.
	Fresh() bool
	// Close ends the passing of memory. What was lent stays readable.
	Close()
}

// Config is what a Link is made of.
type Config struct {
	Peer          int // its rank
	ChunkBytes    int // the longest data part that it takes
	Control, Bulk net.Conn
	Lender        Lender // nil: no memory is lent
	Near          bool   // the peer is on this host, and there are cores for both
	Hangup        func() // closes what the connections were agreed on over
}

// Link joins two ranks. It implements engine.Link.
type Link struct {
	Config
	readers sync.WaitGroup
	control sync.Mutex // one frame at a time is written
	bulk    sync.Mutex
	hangup  sync.Once
}

// New makes a Link and reads what comes for the Engine. Close ends it.
func New(c Config, e *engine.Engine) *Link {
	l := &Link{Config: c}
	l.readers.Go(func() { l.read(e, false, c.Control) })
	l.readers.Go(func() { l.read(e, true, c.Bulk) })
	return l
}

// ChunkBytes is engine.Link's.
func (l *Link) ChunkBytes() int { return l.Config.ChunkBytes }

// Lends is engine.Link's.
func (l *Link) Lends(b []byte) bool {
	if l.Lender == nil {
		return false
	}
	_, ok := l.Lender.Ref(b)
	return ok
}

// Fresh is engine.Link's.
func (l *Link) Fresh() bool { return l.Lender == nil || l.Lender.Fresh() }

// Close is engine.Link's. It may be called more than once.
func (l *Link) Close() {
	l.hangup.Do(func() {
		_ = l.Control.Close()
		_ = l.Bulk.Close()
		if l.Lender != nil {
			l.Lender.Close()
		}
		l.Hangup()
	})
	l.readers.Wait()
	l.control.Lock() // until the last write has ended
	defer l.control.Unlock()
	l.bulk.Lock()
	defer l.bulk.Unlock()
}

// together is how much is copied so that it is written at once, where a connection cannot write from several places.
const together = 16 << 10

// Send is engine.Link's.
func (l *Link) Send(bulk bool, f *frame.Outgoing) error {
	if f.Flags&frame.FlagLent != 0 {
		ref, ok := l.Lender.Ref(f.Data)
		if !ok {
			return errors.New("memory that is not lent")
		}
		head, err := f.HeadOf(ref)
		if err != nil {
			return err
		}
		return l.write(bulk, head, nil)
	}
	head, err := f.Head()
	if err != nil {
		return err
	}
	return l.write(bulk, head, f.Data)
}

func (l *Link) write(bulk bool, head, data []byte) error {
	conn, mu := l.Control, &l.control
	if bulk {
		conn, mu = l.Bulk, &l.bulk
	}
	mu.Lock()
	defer mu.Unlock()
	if len(data) == 0 {
		_, err := conn.Write(head)
		return err
	}
	parts := net.Buffers{head, data}
	switch c := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		_, err := parts.WriteTo(conn)
		return err
	case gathering:
		_, err := c.WriteBuffers(&parts)
		return err
	}
	if len(data) <= together {
		_, err := conn.Write(append(head, data...))
		return err
	}
	if _, err := conn.Write(head); err != nil {
		return err
	}
	_, err := conn.Write(data)
	return err
}

// gathering is a connection around one that writes from several places at once.
type gathering interface {
	WriteBuffers(*net.Buffers) (int64, error)
}

// read hands the engine what comes, until the connection ends.
func (l *Link) read(e *engine.Engine, bulk bool, conn net.Conn) {
	from := io.Reader(conn)
	if !bulk && l.Near {
		from = newSpinning(conn, e.Urgent)
	}
	r := frame.NewReader(from)
	for {
		err := l.readOne(e, bulk, r)
		if err == nil {
			continue
		}
		var bad *frame.FormatError
		if errors.As(err, &bad) {
			e.Reject(l.Peer, err)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			err = errors.New("the peer closed it")
		}
		e.Lost(l.Peer, bulk, err)
		return
	}
}

func (l *Link) readOne(e *engine.Engine, bulk bool, r *frame.Reader) error {
	f, err := r.Next()
	if err != nil {
		return err
	}
	switch {
	case f.Flags&frame.FlagLent != 0:
		ref, err := r.Ref(f)
		if err != nil {
			return err
		}
		if l.Lender == nil {
			return &frame.FormatError{Err: errors.New("memory is lent over a link that cannot")}
		}
		if f.Lent, err = l.Lender.At(ref); err != nil {
			return &frame.FormatError{Err: fmt.Errorf("%s frame %d.%d: %w", f.Kind, f.Seq, f.Chunk, err)}
		}
	case f.DataBytes == 0:
	case !bulk && f.DataBytes > collective.MaxRecordBytes:
		return &frame.FormatError{Err: fmt.Errorf("%s frame with %d bytes of data on the control stream: want at most %d", f.Kind, f.DataBytes, collective.MaxRecordBytes)}
	default:
		var place engine.Placement
		if bulk {
			if place, err = e.Place(l.Peer, &f.Header); err != nil {
				return &frame.FormatError{Err: err}
			}
		}
		if place.Dst != nil {
			err := r.Data(f, place.Dst)
			e.Placed(l.Peer, place, f, err)
			return err
		}
		buf := frame.Buffers.Get(int(f.DataBytes))
		if err := r.Data(f, *buf); err != nil {
			frame.Buffers.Put(buf)
			return err
		}
		f.Data = mem.BufferSlice{mem.NewBuffer(buf, frame.Buffers)}
	}
	e.Deliver(l.Peer, bulk, f)
	return nil
}
