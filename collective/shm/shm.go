// Package shm lets processes of one host read each other's memory: a process passes files of memory over a unix socket, and
// its peers map them read-only. The files are sealed before: they neither shrink nor grow, and nobody maps them for writing
// any more, so a process writes only memory that it owns, and a reader meets no page that is not there. What a killed process
// had lent goes when its last reader unmaps it: nothing has a name.
package shm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels/memfd"
)

const (
	// maxRegions bounds what one peer can make this process map.
	maxRegions  = 64
	noticeBytes = 16
	pageBytes   = 8 // of region 0 that are looked at
)

// region is memory that this process lends.
type region struct {
	at, bytes uintptr
	fd        int
}

// Loan is what this process lends in one generation. Region 0 is a page that says whether it still does.
type Loan struct {
	generation uint64
	page       []byte
	fd         int

	mu      sync.Mutex
	regions atomic.Pointer[[]region] // replaced with mu
	peers   []*Peer
	closed  bool
}

// New begins to lend in a generation, nothing at first.
func New(generation uint64) (*Loan, error) {
	page, fd, err := memfd.New("zerofleet-generation", unix.Getpagesize())
	if err != nil {
		return nil, err
	}
	l := &Loan{generation: generation, page: page, fd: fd}
	word(page).Store(generation)
	l.regions.Store(&[]region{{at: address(page), bytes: uintptr(len(page)), fd: fd}})
	return l, nil
}

func word(page []byte) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&page[0])) }
func address(b []byte) uintptr        { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// Share lends b, the mapping of all of a sealed file, to all peers: those that are there and those that come. b and the file
// must stay until the Loan is closed.
func (l *Loan) Share(b []byte, fd int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := *l.regions.Load()
	if len(old) == maxRegions {
		return fmt.Errorf("%d regions are lent already", maxRegions)
	}
	r := region{at: address(b), bytes: uintptr(len(b)), fd: fd}
	for _, p := range l.peers {
		_ = p.pass(uint64(len(old)), r) // a peer that is gone is its link's to tell
	}
	all := append(slices.Clip(old), r)
	l.regions.Store(&all)
	return nil
}

// Bytes is how much is lent.
func (l *Loan) Bytes() (n int64) {
	for _, r := range *l.regions.Load() {
		n += int64(r.bytes)
	}
	return n
}

// Revoke says that what is lent is not to be read any more. It is not called after Close.
func (l *Loan) Revoke() { word(l.page).Store(0) }

// Close unmaps what peers have lent, and ends the Loan. Nothing may be reading any more. It may be called again.
func (l *Loan) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.Revoke()
	var errs []error
	for _, p := range l.peers {
		p.Close()
		errs = append(errs, p.unmap())
	}
	l.peers = nil
	return errors.Join(append(errs, memfd.Unmap(l.page), unix.Close(l.fd))...)
}

// Peer is the two sides of lending with one process. It implements lanes.Lender.
type Peer struct {
	loan *Loan
	conn *net.UnixConn
	done chan struct{}

	mu      sync.Mutex
	changed sync.Cond
	regions [][]byte
	page    []byte // region 0
	err     error  // no more comes
}

// Connect begins to lend and borrow over a connection, which the Loan owns from then on. It returns when the peer's page
// is mapped: then both can.
func (l *Loan) Connect(conn *net.UnixConn, patience time.Duration) (*Peer, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	p := &Peer{loan: l, conn: conn, done: make(chan struct{})}
	p.changed.L = &p.mu
	l.mu.Lock()
	var err error
	if l.closed {
		err = net.ErrClosed
	}
	for id, r := range *l.regions.Load() {
		if err == nil {
			err = p.pass(uint64(id), r)
		}
	}
	if err == nil {
		l.peers = append(l.peers, p)
	}
	l.mu.Unlock()
	if err == nil {
		err = p.receive()
	}
	if err == nil {
		p.page = p.regions[0]
		if got := word(p.page).Load(); got != l.generation {
			err = fmt.Errorf("it lends in generation %d, this rank in %d", got, l.generation)
		}
	}
	if err != nil {
		p.err = err
		close(p.done)
		_ = conn.Close()
		return nil, fmt.Errorf("pass memory: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	go p.listen()
	return p, nil
}

// pass gives the peer one region.
func (p *Peer) pass(id uint64, r region) error {
	var b [noticeBytes]byte
	binary.LittleEndian.PutUint64(b[0:], id)
	binary.LittleEndian.PutUint64(b[8:], uint64(r.bytes))
	if _, _, err := p.conn.WriteMsgUnix(b[:], unix.UnixRights(r.fd), nil); err != nil {
		return fmt.Errorf("lend %d bytes: %w", r.bytes, err)
	}
	return nil
}

func (p *Peer) listen() {
	defer close(p.done)
	for {
		if err := p.receive(); err != nil {
			p.mu.Lock()
			p.err = err
			p.changed.Broadcast()
			p.mu.Unlock()
			return
		}
	}
}

// receive takes one region and maps it.
func (p *Peer) receive() error {
	var b [noticeBytes]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		return err
	}
	fd, err := passed(oob[:oobn])
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // the mapping needs it no more
	if n != noticeBytes {
		return fmt.Errorf("a region in %d bytes: want %d", n, noticeBytes)
	}
	id, bytes := binary.LittleEndian.Uint64(b[0:]), binary.LittleEndian.Uint64(b[8:])
	p.mu.Lock()
	defer p.mu.Unlock()
	if id != uint64(len(p.regions)) || id >= maxRegions {
		return fmt.Errorf("region %d: want %d, and fewer than %d", id, len(p.regions), maxRegions)
	}
	if bytes < pageBytes {
		return fmt.Errorf("region %d of %d bytes: want at least %d", id, bytes, pageBytes)
	}
	mapped, err := memfd.Borrow(fd, bytes)
	if err != nil {
		return fmt.Errorf("region %d of %d bytes: %w", id, bytes, err)
	}
	p.regions = append(p.regions, mapped)
	p.changed.Broadcast()
	return nil
}

// passed is the one file that came with a message.
func passed(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("%d files of memory with a region: want 1", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return -1, fmt.Errorf("%d files with a region: want 1", len(fds))
	}
	return fds[0], nil
}

// Ref is lanes.Lender's.
func (p *Peer) Ref(b []byte) (frame.Ref, bool) {
	at, n := address(b), uintptr(len(b))
	for id, r := range *p.loan.regions.Load() {
		if id > 0 && at >= r.at && at+n <= r.at+r.bytes {
			return frame.Ref{Region: uint64(id), Off: uint64(at - r.at), Len: uint64(n)}, true
		}
	}
	return frame.Ref{}, false
}

// At is lanes.Lender's.
func (p *Peer) At(r frame.Ref) ([]byte, error) {
	if r.Region == 0 || r.Region >= maxRegions {
		return nil, fmt.Errorf("region %d is lent: want 1 to %d", r.Region, maxRegions-1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for r.Region >= uint64(len(p.regions)) {
		if p.err != nil {
			return nil, fmt.Errorf("region %d is lent and was not passed: %w", r.Region, p.err)
		}
		p.changed.Wait()
	}
	b := p.regions[r.Region]
	if r.Off > uint64(len(b)) || r.Len > uint64(len(b))-r.Off {
		return nil, fmt.Errorf("bytes [%d, +%d) are lent of region %d, which has %d", r.Off, r.Len, r.Region, len(b))
	}
	return b[r.Off : r.Off+r.Len : r.Off+r.Len], nil
}

// Fresh is lanes.Lender's.
func (p *Peer) Fresh() bool { return word(p.page).Load() == p.loan.generation }

// Close is lanes.Lender's.
func (p *Peer) Close() {
	_ = p.conn.Close()
	<-p.done
}

func (p *Peer) unmap() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, b := range p.regions {
		errs = append(errs, memfd.Unmap(b))
	}
	p.regions = nil
	return errors.Join(errs...)
}
