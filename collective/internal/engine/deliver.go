package engine

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Deliver takes a frame that arrived from a peer on one of its streams, and frees it. A
// stream's frames must be delivered in order, by one goroutine at a time.
func (e *Engine) Deliver(from int, bulk bool, f *frame.Frame) {
	defer func() { f.Free() }()
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.peers[from]
	p.heard = time.Now()
	p.stats.FrameBytesReceived += uint64(frame.HeaderBytes + len(f.Meta) + int(f.DataBytes))
	var err error
	switch {
	case f.Job != e.job:
		err = fmt.Errorf("a %s frame of another job", f.Kind)
	case f.Generation < e.cfg.Generation:
		e.stats.DroppedFrames++
		return
	case f.Generation > e.cfg.Generation:
		e.fence(f.Generation)
		return
	case int(f.Rank) != from:
		err = fmt.Errorf("a %s frame of rank %d", f.Kind, f.Rank)
	case e.err != nil && f.Kind != frame.Leave && f.Kind != frame.Ack:
		return // this rank leaves: it reads on only so that the peer can write
	default:
		err = e.dispatch(p, bulk, f)
	}
	if err != nil {
		e.violation(p, err)
	}
}

func (e *Engine) dispatch(p *peer, bulk bool, f *frame.Frame) error {
	if f.Kind == frame.Leave {
		return e.takeLeave(p, bulk, f)
	}
	if bulk != (f.Kind == frame.Data) {
		return fmt.Errorf("a %s frame on the wrong stream", f.Kind)
	}
	switch f.Kind {
	case frame.Post:
		return e.takePost(p, f)
	case frame.Data:
		return e.takeData(p, f)
	case frame.Credit:
		return e.takeCredit(p, f)
	case frame.Progress:
		return e.takeProgress(p, f)
	case frame.Taken:
		return e.takeTaken(p, f)
	case frame.Ack:
		p.acked = true
		e.settlePeer(p)
		return nil
	}
	return fmt.Errorf("a %s frame after the handshake", f.Kind)
}

// early is what peers announced of an operation that this rank has not begun.
type early struct{ posts map[int]*post }

// post is a peer's announcement of an operation.
type post struct {
	collective.Op
	eager bool
	data  []byte // with eager
	limit int    // credit that followed it
}

func (e *Engine) takePost(p *peer, f *frame.Frame) error {
	var m pb.CollectiveOp
	if err := proto.Unmarshal(f.Meta, &m); err != nil {
		return fmt.Errorf("a post that does not parse: %w", err)
	}
	desc, err := opFromWire(&m, e.size)
	if err != nil {
		return fmt.Errorf("a post of %w", err)
	}
	if desc.Seq != f.Seq || desc.Type != f.Type {
		return fmt.Errorf("a post of %s in a frame of #%d and type %s", desc, f.Seq, f.Type)
	}
	k, err := e.postKey(p, desc, f.Space)
	if err != nil {
		return err
	}
	got := &post{Op: desc, eager: f.Flags&frame.FlagEager != 0}
	if !got.eager && f.DataBytes > 0 {
		return fmt.Errorf("a post of %s with %d bytes of data", desc, f.DataBytes)
	}
	if got.eager {
		got.data = make([]byte, f.DataBytes)
		f.CopyData(got.data)
	}
	if !f.Space.Inner() {
		p.last = lastOp{known: true, op: desc, since: time.Now()}
	}
	if o := e.ops[k]; o != nil {
		if o.arrive != nil {
			o.arrive(p.rank)
		}
		if e.meet(o, p, got) {
			e.settle(o)
		}
		return nil
	}
	if k.seq <= e.next[order{k.order.base(), k.from, k.to}] && !k.space.Inner() {
		return fmt.Errorf("a post of %s, which is over", desc)
	}
	return e.keepEarly(p, k, got)
}

// base is the space whose counter numbers an order's operations.
func (o order) base() frame.Space {
	if o.space == frame.Second {
		return frame.Collective
	}
	return o.space
}

// postKey finds which of this rank's operations a peer's Post belongs to.
func (e *Engine) postKey(p *peer, desc collective.Op, space frame.Space) (key, error) {
	pair := desc.Kind == collective.KindSend || desc.Kind == collective.KindRecv
	if pair != (space == frame.Pair) {
		return key{}, fmt.Errorf("a post of %s in sequence space %d", desc, space)
	}
	switch {
	case !pair:
		return key{collectiveOrder(space), desc.Seq}, nil
	case desc.Peer != e.rank:
		return key{}, fmt.Errorf("a post of %s, which is for another rank", desc)
	case desc.Kind == collective.KindSend:
		return key{pairOrder(p.rank, e.rank), desc.Seq}, nil
	}
	return key{pairOrder(e.rank, p.rank), desc.Seq}, nil
}

// keepEarly remembers a Post of an operation that this rank has not begun. The caller holds mu.
func (e *Engine) keepEarly(p *peer, k key, got *post) error {
	at := e.early[k]
	if at == nil {
		at = &early{posts: map[int]*post{}}
		e.early[k] = at
	}
	if at.posts[p.rank] != nil {
		return fmt.Errorf("a second post of %s", got.Op)
	}
	if p.earlyPosts >= maxInFlight || p.earlyBytes+len(got.data) > e.eagerLimit {
		return fmt.Errorf("%d operations and %d bytes ahead of this rank: want at most %d and %d",
			p.earlyPosts+1, p.earlyBytes+len(got.data), maxInFlight, e.eagerLimit)
	}
	for r, other := range at.posts { // two peers may disagree before this rank arrives
		if k.space != frame.Pair && !other.Agrees(got.Op) {
			e.mismatch(r, other.Op, p.rank, got.Op)
			return nil
		}
	}
	at.posts[p.rank] = got
	p.earlyPosts++
	p.earlyBytes += len(got.data)
	e.buffered(int64(len(got.data)))
	return nil
}

func (e *Engine) forgetEarly(p *peer, got *post) {
	p.earlyPosts--
	p.earlyBytes -= len(got.data)
	e.buffered(-int64(len(got.data)))
}

// meet joins a peer's Post with this rank's operation. It is false when that ended the
// Group. The caller holds mu, and settles the operation afterwards.
func (e *Engine) meet(o *op, p *peer, got *post) bool {
	m := &o.peers[p.rank]
	agree := o.Agrees(got.Op)
	if o.key.space == frame.Pair {
		agree = o.Matches(got.Op)
	}
	if !agree {
		e.mismatch(e.rank, o.Op, p.rank, got.Op)
		return false
	}
	if m.posted || !m.member {
		e.violation(p, fmt.Errorf("a second post of %s", got.Op))
		return false
	}
	if got.eager && (o.small == nil || o.key.space != frame.Collective) {
		e.violation(p, fmt.Errorf("a post of %s with its data", got.Op))
		return false
	}
	m.posted = true
	o.missing--
	o.moved = time.Now()
	p.eagerAhead -= m.eager
	if got.eager {
		if err := e.takeSmall(o, p, got.data); err != nil {
			e.violation(p, err)
			return false
		}
	}
	if m.job != nil && (m.job.lent || !o.reduces()) {
		m.job.limit = m.job.chunks
		p.bulkC.Signal()
	}
	if got.limit > 0 {
		if err := e.credit(o, p, got.limit); err != nil {
			e.violation(p, err)
			return false
		}
	}
	return true
}

// reduces reports whether the operation's data needs credits.
func (o *op) reduces() bool { return o.acc != nil }

// takeSmall takes a record or a small all-reduce's term.
func (e *Engine) takeSmall(o *op, p *peer, data []byte) error {
	m := &o.peers[p.rank]
	if m.next > 0 {
		return fmt.Errorf("the data of %s twice", o.Op)
	}
	if want := len(o.dst); o.Kind == collective.KindAllReduce && len(data) != want {
		return fmt.Errorf("%d bytes for %s: want %d", len(data), o.Op, want)
	}
	if len(data) > collective.MaxRecordBytes {
		return fmt.Errorf("a record of %d bytes: want at most %d", len(data), collective.MaxRecordBytes)
	}
	m.next = 1
	o.small[p.rank] = data
	o.receiving--
	e.stats.ReceivedBytes[o.Kind] += uint64(len(data))
	p.stats.ReceivedBytes += uint64(len(data))
	return nil
}

// takeCredit takes leave to send a reduction's chunks below a limit. Its owner may give it
// before this rank has begun the operation.
func (e *Engine) takeCredit(p *peer, f *frame.Frame) error {
	k := key{collectiveOrder(f.Space), f.Seq}
	if o := e.ops[k]; o != nil {
		return e.credit(o, p, int(f.Chunk))
	}
	at := e.early[k]
	if at == nil || at.posts[p.rank] == nil {
		return fmt.Errorf("credit for operation #%d, which is not open to it", f.Seq)
	}
	at.posts[p.rank].limit = int(f.Chunk)
	return nil
}

func (e *Engine) credit(o *op, p *peer, limit int) error {
	j := o.peers[p.rank].job
	if !o.reduces() || j == nil {
		return fmt.Errorf("credit for %s, which sends it nothing", o.Op)
	}
	if j.lent {
		return nil // the peer did not know yet; it buffers nothing of it
	}
	if limit < j.limit || limit > j.chunks {
		return fmt.Errorf("credit to chunk %d of %s: want %d to %d", limit, o.Op, j.limit, j.chunks)
	}
	j.limit = limit
	p.bulkC.Signal()
	return nil
}

func (e *Engine) takeProgress(p *peer, f *frame.Frame) error {
	var m pb.CollectiveProgress
	if err := proto.Unmarshal(f.Meta, &m); err != nil {
		return fmt.Errorf("a heartbeat that does not parse: %w", err)
	}
	if m.GetLast() == nil {
		return nil
	}
	desc, err := opFromWire(m.GetLast(), e.size)
	if err != nil {
		return fmt.Errorf("a heartbeat of %w", err)
	}
	age := time.Duration(min(m.GetAgeMicros(), uint64((1000*time.Hour).Microseconds()))) * time.Microsecond
	p.last = lastOp{known: true, op: desc, finished: m.GetFinished(), since: time.Now().Add(-age)}
	return nil
}

var errLeft = errors.New("it has left the group")

// takeLeave takes a peer's farewell. The caller holds mu.
func (e *Engine) takeLeave(p *peer, bulk bool, f *frame.Frame) error {
	var m pb.CollectiveLeave
	if err := proto.Unmarshal(f.Meta, &m); err != nil {
		return fmt.Errorf("a farewell that does not parse: %w", err)
	}
	if bulk {
		p.leftBulk = true
	} else {
		p.leftControl = true
	}
	if inOrder(&m) && !(p.leftBulk && p.leftControl) {
		return nil // until both streams have ended, data may be under way
	}
	p.gone = true
	e.control(p, &frame.Outgoing{Header: e.header(frame.Ack)})
	if inOrder(&m) {
		e.missPeer(p)
	} else {
		e.passOn(p, &m)
	}
	e.settlePeer(p)
	return nil
}

// missPeer fails the Group if an operation still needs a peer that left. The caller holds mu.
func (e *Engine) missPeer(p *peer) {
	for _, o := range e.ops {
		m := &o.peers[p.rank]
		if !m.member {
			continue
		}
		unsent := m.job != nil && m.job.next < m.job.chunks && !m.job.sending
		if !m.posted || m.next < m.chunks || unsent {
			err := e.peerErr(p, errLeft)
			e.end(err, leaveBecause(err, p.rank))
			return
		}
	}
}

// Lost tells the Engine that a stream of a peer has ended, and why.
func (e *Engine) Lost(from int, bulk bool, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.peers[from]
	if bulk {
		if p.bulkErr == nil {
			p.bulkErr, p.bulkLost = cause, time.Now()
		}
		return // the control stream may still tell why; watch gives it a moment
	}
	p.lost = true
	if !p.gone {
		err := e.peerErr(p, fmt.Errorf("connection lost: %w", cause))
		e.end(err, leaveBecause(err, p.rank))
	}
	e.settlePeer(p)
}

// settlePeer notes that nothing more needs to be waited for from a peer. The caller holds mu.
func (e *Engine) settlePeer(p *peer) {
	if p.lost || p.acked || p.gone && e.err != nil {
		select {
		case <-p.settled:
		default:
			close(p.settled)
		}
	}
}
