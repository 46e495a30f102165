package cuda

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
)

// stream is a queue on the card. One goroutine at a time uses it.
type stream struct {
	b        *Backend
	name     string
	queue    queue
	closed   bool // guarded by b.mu: another stream's Wait reads it
	recorded int  // events
	// landing are downloads since the last Sync, which finds their bytes in pinned memory.
	landing []landing
}

type landing struct{ dst, staged []byte }

// event is one of a stream's ring.
type event struct {
	of   *stream
	slot int
}

// NewStream opens a stream; name says in errors which one it was.
func (b *Backend) NewStream(name string) (kernels.Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("cuda: stream %s on a closed backend", name)
	}
	q, err := b.device.openQueue()
	if err != nil {
		return nil, fmt.Errorf("cuda: open stream %s: %w", name, err)
	}
	b.streams++
	return &stream{b: b, name: name, queue: q}, nil
}

func (s *stream) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cuda: stream %s: %s: %w", s.name, what, err)
}

// usable fails when the stream is closed, or one of the buffers cannot be used.
func (s *stream) usable(args ...kernels.Arg) error {
	if s.closed { // written by the one goroutine that uses the stream
		return errors.New("the stream is closed")
	}
	for _, a := range args {
		if err := s.b.check(a.Name, a.Buf); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) Launch(op kernels.Op) error {
	if err := op.Validate(); err != nil {
		return s.wrap("launch", err)
	}
	if err := s.usable(op.Args()...); err != nil {
		return s.wrap(op.Name(), err)
	}
	return s.wrap(op.Name(), s.queue.launch(op))
}

func (s *stream) Upload(dst kernels.Buffer, src []byte) error {
	if int64(len(src)) != dst.Bytes() {
		return s.wrap("upload", fmt.Errorf("%d host bytes and a buffer of %d", len(src), dst.Bytes()))
	}
	if err := s.usable(kernels.Arg{Name: "the buffer", Buf: dst}); err != nil || len(src) == 0 {
		return s.wrap("upload", err)
	}
	return s.wrap("upload", s.queue.upload(at(dst), src))
}

// Download goes through pinned memory, from which Sync takes it: the card never writes to memory of Go's. What is longer than
// there is room for waits for what was enqueued.
func (s *stream) Download(dst []byte, src kernels.Buffer) error {
	if int64(len(dst)) != src.Bytes() {
		return s.wrap("download", fmt.Errorf("%d host bytes and a buffer of %d", len(dst), src.Bytes()))
	}
	if err := s.usable(kernels.Arg{Name: "the buffer", Buf: src}); err != nil {
		return s.wrap("download", err)
	}
	for done := 0; done < len(dst); {
		n := min(len(dst)-done, stagingBytes)
		staged, err := s.queue.download(unsafe.Add(at(src), done), n)
		if err == nil && staged == nil {
			if err = s.settle(); err == nil {
				continue
			}
		}
		if err != nil {
			return s.wrap("download", err)
		}
		s.landing = append(s.landing, landing{dst[done : done+n], staged})
		done += n
	}
	return nil
}

// settle waits for the stream, and gives the downloads their bytes.
func (s *stream) settle() error {
	landed := s.landing
	s.landing = nil
	if err := s.queue.sync(); err != nil {
		return err
	}
	for _, l := range landed {
		copy(l.dst, l.staged)
	}
	return nil
}

func (s *stream) Copy(dst, src kernels.Buffer) error {
	if err := kernels.ValidateCopy(dst, src); err != nil {
		return s.wrap("copy", err)
	}
	if err := s.usable(kernels.Arg{Name: "dst", Buf: dst}, kernels.Arg{Name: "src", Buf: src}); err != nil || src.Len() == 0 {
		return s.wrap("copy", err)
	}
	return s.wrap("copy", s.queue.copy(at(dst), at(src), src.Bytes()))
}

func (s *stream) Record() (kernels.Event, error) {
	if err := s.usable(); err != nil {
		return nil, s.wrap("record", err)
	}
	slot := s.recorded % eventCount
	s.recorded++
	return event{s, slot}, s.wrap("record", s.queue.record(slot))
}

func (s *stream) Wait(e kernels.Event) error {
	if err := s.usable(); err != nil {
		return s.wrap("wait", err)
	}
	ev, ok := e.(event)
	if !ok || ev.of.b != s.b {
		return s.wrap("wait", errors.New("not an event of this backend"))
	}
	s.b.mu.Lock() // so that the other stream is not closed meanwhile
	defer s.b.mu.Unlock()
	if ev.of.closed {
		return nil // and so done
	}
	return s.wrap("wait", s.queue.wait(ev.of.queue, ev.slot))
}

// Sync waits for the card, which nothing can interrupt: ctx is looked at before.
func (s *stream) Sync(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return s.wrap("sync", err)
	}
	if err := ctx.Err(); err != nil {
		return s.wrap("sync", err)
	}
	return s.wrap("sync", s.settle())
}

func (s *stream) Close() error {
	if err := s.usable(); err != nil {
		return s.wrap("close", err)
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.closed = true
	s.b.streams--
	return s.wrap("close", s.queue.close())
}
