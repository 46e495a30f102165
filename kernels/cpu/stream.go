package cpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/kernels"
)

// stream runs everything where it is enqueued: what a call returns is the operation's own error, and Sync has nothing to
// wait for. One goroutine at a time uses it; streams of one Backend take turns.
type stream struct {
	b      *Backend
	name   string
	closed bool // guarded by b.mu
}

// event is in the past as soon as it exists.
type event struct{ b *Backend }

// NewStream opens a stream; name says in errors which one it was.
func (b *Backend) NewStream(name string) (kernels.Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("cpu: stream %s on a closed backend", name)
	}
	b.streams++
	return &stream{b: b, name: name}, nil
}

func (s *stream) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cpu: stream %s: %s: %w", s.name, what, err)
}

// begin takes the Backend's lock, and gives it back when the stream cannot be used. The caller unlocks.
func (s *stream) begin() error {
	s.b.mu.Lock()
	if s.closed {
		s.b.mu.Unlock()
		return errors.New("the stream is closed")
	}
	return nil
}

func (s *stream) Launch(op kernels.Op) error {
	if err := op.Validate(); err != nil {
		return s.wrap("launch", err)
	}
	if err := s.begin(); err != nil {
		return s.wrap(op.Name(), err)
	}
	defer s.b.mu.Unlock()
	for _, a := range op.Args() {
		if err := s.b.check(a.Name, a.Buf); err != nil {
			return s.wrap(op.Name(), err)
		}
	}
	return s.wrap(op.Name(), s.b.pool.run(op))
}

// bytes are a buffer's own. The caller holds the lock.
func (s *stream) bytes(name string, b kernels.Buffer) ([]byte, error) {
	if err := s.b.check(name, b); err != nil {
		return nil, err
	}
	data := b.Mem().(*memory).data
	return data[b.Offset() : b.Offset()+b.Bytes()], nil
}

func (s *stream) Upload(dst kernels.Buffer, src []byte) error {
	return s.wrap("upload", s.transfer(dst, src, func(device, host []byte) { move(device, host) }))
}

func (s *stream) Download(dst []byte, src kernels.Buffer) error {
	return s.wrap("download", s.transfer(src, dst, func(device, host []byte) { move(host, device) }))
}

func (s *stream) transfer(b kernels.Buffer, host []byte, move func(device, host []byte)) error {
	if int64(len(host)) != b.Bytes() {
		return fmt.Errorf("%d host bytes and a buffer of %d", len(host), b.Bytes())
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.b.mu.Unlock()
	device, err := s.bytes("the buffer", b)
	if err != nil {
		return err
	}
	move(device, host)
	return nil
}

func (s *stream) Copy(dst, src kernels.Buffer) error { return s.wrap("copy", s.copy(dst, src)) }

func (s *stream) copy(dst, src kernels.Buffer) error {
	if err := kernels.ValidateCopy(dst, src); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.b.mu.Unlock()
	to, err := s.bytes("dst", dst)
	if err != nil {
		return err
	}
	from, err := s.bytes("src", src)
	if err != nil {
		return err
	}
	move(to, from)
	return nil
}

func (s *stream) Record() (kernels.Event, error) {
	if err := s.begin(); err != nil {
		return nil, s.wrap("record", err)
	}
	defer s.b.mu.Unlock()
	return event{s.b}, nil
}

func (s *stream) Wait(e kernels.Event) error {
	if err := s.begin(); err != nil {
		return s.wrap("wait", err)
	}
	defer s.b.mu.Unlock()
	if ev, ok := e.(event); !ok || ev.b != s.b {
		return s.wrap("wait", errors.New("not an event of this backend"))
	}
	return nil
}

func (s *stream) Sync(context.Context) error {
	if err := s.begin(); err != nil {
		return s.wrap("sync", err)
	}
	s.b.mu.Unlock()
	return nil
}

func (s *stream) Close() error {
	if err := s.begin(); err != nil {
		return s.wrap("close", err)
	}
	defer s.b.mu.Unlock()
	s.closed = true
	s.b.streams--
	return nil
}

// moveBytes is how much is copied at once: from 1 MiB on Go copies with stores that pass by the caches, at little more than half the
// rate.
const moveBytes = 256 << 10

func move(to, from []byte) {
	for len(from) > moveBytes {
		copy(to, from[:moveBytes])
		to, from = to[moveBytes:], from[moveBytes:]
	}
	copy(to, from)
}
