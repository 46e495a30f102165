package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grpc"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/memfd"
)

// The transports of a collective.Group.
const (
	transportSHM   = string(grpc.SHM)
	transportLanes = string(grpc.Lanes)
	transportGRPC  = string(grpc.Stream)
)

// groupMember is a rank in a collective.Group.
type groupMember struct {
	setup
	client   *tls.Config
	endpoint *grpc.Endpoint
	group    collective.Group
	arena    []byte // with transportSHM: memory that peers read, of which operations take parts
	files    []int  // of it and of smaller ones before
	mappings [][]byte
}

func newMember(ctx context.Context, s setup) (*groupMember, error) {
	server, client, err := s.Pair.configs()
	if err != nil {
		return nil, err
	}
	ep, err := grpc.Listen(ctx, grpc.Options{Addr: s.Host + ":0", TLS: server})
	if err != nil {
		return nil, err
	}
	return &groupMember{setup: s, client: client, endpoint: ep}, nil
}

func (m *groupMember) address() string { return m.endpoint.Addr() }

func (m *groupMember) meet(ctx context.Context, peers []string) error {
	c := grpc.Config{Job: "bench", Generation: 1, Rank: m.Rank, Checksum: m.Checksum, ClientTLS: m.client, Transport: grpc.Transport(m.What), Fold: cpu.Accumulate}
	for r, addr := range peers {
		c.Peers = append(c.Peers, grpc.Peer{ID: fmt.Sprint("rank-", r), Addr: addr, Name: pairName})
	}
	g, err := m.endpoint.Join(ctx, c)
	if err != nil {
		return err
	}
	m.group = g
	for r, p := range g.Stats().Peers {
		if r != m.Rank && p.Transport != m.What {
			return fmt.Errorf("rank %d is reached over %s, want %s", r, p.Transport, m.What)
		}
	}
	return nil
}

func (m *groupMember) close() error {
	var err error
	if m.group != nil {
		err = m.group.Close()
	}
	for i, b := range m.mappings {
		err = errors.Join(err, memfd.Unmap(b), unix.Close(m.files[i]))
	}
	return errors.Join(err, m.endpoint.Close())
}

// share makes so much memory be there that peers read.
func (m *groupMember) share(bytes int64) error {
	if int64(len(m.arena)) >= bytes {
		return nil
	}
	b, fd, err := memfd.New("bench", int(bytes))
	if err != nil {
		return err
	}
	m.arena, m.mappings, m.files = b, append(m.mappings, b), append(m.files, fd)
	return m.group.Share(b, fd)
}

// shareAlign is where an operation's buffers begin in shared memory.
const shareAlign = 4096

// operation is one that is ready to be run, many times.
type operation struct {
	run func() error
	// buffers are what every rank fills with values of its own before the operation that is checked, and result what is
	// then looked at: as many f32, of which element i is of rank want(i), or the sum over ranks.
	fill, result []float32
	first        int  // the index of result[0] in the full buffer
	gathered     bool // result is a gathered buffer, not a sum
	free         []*mapped
}

// prepare makes the buffers of an operation.
func (m *groupMember) prepare(ctx context.Context, o order) (*operation, error) {
	p := &operation{}
	full, used := o.bytes*int64(m.Ranks), int64(0)
	if m.What == transportSHM {
		if err := m.share(full + o.bytes + shareAlign); err != nil {
			return p, err
		}
	}
	get := func(bytes int64) (collective.Buffer, []float32, error) {
		if m.What == transportSHM {
			b := m.arena[used:][:bytes]
			used += (bytes + shareAlign - 1) / shareAlign * shareAlign
			return collective.Buffer{Bytes: b, Type: kernels.F32}, floats(b), nil
		}
		b, err := mapMemory(bytes)
		if err != nil {
			return collective.Buffer{}, nil, err
		}
		p.free = append(p.free, b)
		return collective.Buffer{Bytes: b.Bytes(), Type: kernels.F32}, floats(b.Bytes()), nil
	}
	all, values, err := get(full)
	if err != nil {
		return p, err
	}
	n := len(values) / m.Ranks
	switch o.operation {
	case opAllGather:
		own := collective.Buffer{Bytes: all.Bytes[int64(m.Rank)*o.bytes:][:o.bytes], Type: kernels.F32}
		p.fill, p.result, p.gathered = values[m.Rank*n:][:n], values, true
		p.run = func() error { return m.group.AllGather(ctx, "bench", all, own).Wait(ctx) }
	case opReduceScatter:
		_, sum, err := get(o.bytes)
		if err != nil {
			return p, err
		}
		p.fill, p.result, p.first = values, sum, m.Rank*n
		p.run = func() error {
			return m.group.ReduceScatter(ctx, "bench", accumulator(sum), all, 0, m.Ranks).Wait(ctx)
		}
	case opAllReduce:
		p.fill, p.result = values, values
		p.run = func() error { return m.group.AllReduce(ctx, "bench", all).Wait(ctx) }
	default:
		return p, fmt.Errorf("no operation %q", o.operation)
	}
	return p, nil
}

func (m *groupMember) do(ctx context.Context, o order) (seconds float64, err error) {
	p, err := m.prepare(ctx, o)
	defer func() {
		for _, b := range p.free {
			err = errors.Join(err, b.Free())
		}
	}()
	if err != nil {
		return 0, err
	}
	if o.check {
		offset := 0
		if p.gathered {
			offset = m.Rank * len(p.fill)
		}
		for i := range p.fill {
			p.fill[i] = value(m.Rank, offset+i)
		}
	}
	if err := p.run(); err != nil {
		return 0, err
	}
	if o.check {
		if err := p.check(m.Ranks); err != nil {
			return 0, err
		}
		clear(p.fill) // sums of sums would leave what f32 holds
	}
	if _, err := m.group.Exchange(ctx, nil); err != nil {
		return 0, err
	}
	return timed(o, p.run)
}

// value is what a rank has at an index of the full buffer, in the operation that is checked: sums of it are exact.
func value(rank, i int) float32 { return float32((31*i + 17*rank) % 251) }

// check compares the result with what it should be.
func (p *operation) check(ranks int) error {
	n := len(p.result) / ranks
	for i, got := range p.result {
		want := float32(0)
		if p.gathered {
			want = value(i/n, i)
		} else {
			for r := range ranks {
				want += value(r, p.first+i)
			}
		}
		if got != want {
			return fmt.Errorf("element %d is %v, want %v", p.first+i, got, want)
		}
	}
	return nil
}

// accumulator adds as a worker does.
type accumulator []float32

func (a accumulator) Len() int { return len(a) }

func (a accumulator) Fold(_, off int, src []byte, t kernels.DType) error {
	return cpu.Accumulate(a[off:off+len(src)/t.Bytes()], src, t)
}
