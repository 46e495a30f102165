package deferred

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zerofleet/zerofleet/kernels"
)

// stream is a queue. Everything of it is guarded by b.mu.
type stream struct {
	b     *Backend
	name  string
	inner kernels.Stream
	queue []*task
	count uint64             // tasks ever enqueued
	clock map[*stream]uint64 // of every other stream, the last task that is ordered before this stream's next one
	err   error              // of a task that another stream's Sync ran
	done  bool               // closed
}

// A task is one thing enqueued: an operation, or a wait.
type task struct {
	s        *stream
	n        uint64 // the n-th of its stream, 1 for the first
	name     string
	accesses []*access
	run      func(ctx context.Context) error
	wait     *event // what must be done first, for a wait
}

func (t *task) String() string { return fmt.Sprintf("%q of stream %s", t.name, t.s.name) }

// event is what a stream had enqueued when it was recorded.
type event struct {
	s     *stream
	n     uint64
	clock map[*stream]uint64
}

// NewStream opens a stream and, for it, one of the inner Backend.
func (b *Backend) NewStream(name string) (kernels.Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	inner, err := b.inner.NewStream(name)
	if err != nil {
		return nil, fmt.Errorf("deferred: %w", err)
	}
	b.streams++
	return &stream{b: b, name: name, inner: inner, clock: map[*stream]uint64{}}, nil
}

// An argument is a buffer and how an operation uses it.
type argument = kernels.Arg

// enqueue queues run, which will use args, unless the streams do not order it after what it conflicts with.
func (s *stream) enqueue(name string, args []argument, run func(ctx context.Context) error) error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if err := s.put(name, args, run); err != nil {
		return fmt.Errorf("deferred: stream %s: %s: %w", s.name, name, err)
	}
	return nil
}

func (s *stream) put(name string, args []argument, run func(ctx context.Context) error) error {
	if s.done {
		return errors.New("the stream is closed")
	}
	t := &task{s: s, n: s.count + 1, name: name, run: run}
	for _, arg := range args {
		a, err := t.newAccess(arg.Name, arg.Buf, arg.Access)
		if err != nil {
			return err
		}
		if err := a.ordered(); err != nil {
			return err
		}
		t.accesses = append(t.accesses, a)
	}
	// Reads of the host's view first: an operation in place must see it before it is hidden.
	for _, writing := range []bool{false, true} {
		for _, a := range t.accesses {
			if a.writes() != writing {
				continue
			}
			if err := a.begin(); err != nil {
				t.finish(false)
				return err
			}
		}
	}
	s.count++
	s.queue = append(s.queue, t)
	return nil
}

func (t *task) finish(ran bool) {
	for _, a := range t.accesses {
		a.end(ran)
	}
}

func (s *stream) Launch(op kernels.Op) error {
	if err := op.Validate(); err != nil {
		return fmt.Errorf("deferred: stream %s: launch: %w", s.name, err)
	}
	return s.enqueue(op.Name(), op.Args(), func(ctx context.Context) error {
		on, err := rebind(op)
		if err != nil {
			return err
		}
		if err := s.inner.Launch(on); err != nil {
			return err
		}
		return s.inner.Sync(ctx)
	})
}

func (s *stream) Upload(dst kernels.Buffer, src []byte) error {
	if int64(len(src)) != dst.Bytes() {
		return fmt.Errorf("deferred: stream %s: upload of %d bytes to a buffer of %d", s.name, len(src), dst.Bytes())
	}
	kept := slices.Clone(src)
	return s.enqueue("upload", []argument{{Name: "dst", Buf: dst, Access: kernels.Write}}, func(context.Context) error {
		copy(device(dst), kept)
		return nil
	})
}

func (s *stream) Download(dst []byte, src kernels.Buffer) error {
	if int64(len(dst)) != src.Bytes() {
		return fmt.Errorf("deferred: stream %s: download of %d bytes from a buffer of %d", s.name, len(dst), src.Bytes())
	}
	err := s.enqueue("download", []argument{{Name: "src", Buf: src, Access: kernels.Read}}, func(context.Context) error {
		copy(dst, device(src))
		return nil
	})
	if err == nil {
		fill(dst)
	}
	return err
}

func (s *stream) Copy(dst, src kernels.Buffer) error {
	if err := kernels.ValidateCopy(dst, src); err != nil {
		return fmt.Errorf("deferred: stream %s: %w", s.name, err)
	}
	args := []argument{{Name: "dst", Buf: dst, Access: kernels.Write}, {Name: "src", Buf: src, Access: kernels.Read}}
	return s.enqueue("copy", args, func(context.Context) error {
		copy(device(dst), device(src))
		return nil
	})
}

// device is a buffer's bytes as operations see them. Its memory was checked when the operation was enqueued.
func device(b kernels.Buffer) []byte {
	return b.Mem().(*memory).data[b.Offset() : b.Offset()+b.Bytes()]
}

func (s *stream) Record() (kernels.Event, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.done {
		return nil, fmt.Errorf("deferred: stream %s: record on a closed stream", s.name)
	}
	e := &event{s: s, n: s.count, clock: map[*stream]uint64{s: s.count}}
	for other, n := range s.clock {
		e.clock[other] = n
	}
	return e, nil
}

func (s *stream) Wait(ev kernels.Event) error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	e, ok := ev.(*event)
	switch {
	case !ok || e == nil || e.s.b != s.b:
		return fmt.Errorf("deferred: stream %s: wait: not an event of this backend", s.name)
	case s.done:
		return fmt.Errorf("deferred: stream %s: wait on a closed stream", s.name)
	case e.s == s:
		return nil // a stream is in order
	}
	for other, n := range e.clock {
		if other != s {
			s.clock[other] = max(s.clock[other], n)
		}
	}
	s.count++
	s.queue = append(s.queue, &task{s: s, n: s.count, name: "wait", wait: e})
	return nil
}

func (s *stream) Sync(ctx context.Context) error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.done {
		return fmt.Errorf("deferred: stream %s: sync of a closed stream", s.name)
	}
	err := s.runTo(ctx, s.count)
	if s.err != nil {
		err, s.err = s.err, nil
	}
	return err
}

// runTo runs the queue up to task n. An error drops the rest of the queue, whose inputs would be wrong.
func (s *stream) runTo(ctx context.Context, n uint64) error {
	for len(s.queue) > 0 && s.queue[0].n <= n {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("deferred: stream %s: sync with %s queued: %w", s.name, s.queue[0], err)
		}
		t := s.queue[0]
		err := t.execute(ctx)
		if err != nil && t.wait != nil && ctx.Err() != nil {
			return err // still to be done
		}
		if err != nil {
			err = fmt.Errorf("deferred: stream %s: %s: %w", s.name, t.name, err)
			for _, left := range s.queue {
				left.finish(false)
			}
			s.queue, s.err = nil, err
			return err
		}
		s.queue = s.queue[1:]
	}
	return nil
}

func (t *task) execute(ctx context.Context) error {
	if t.wait != nil {
		return t.wait.s.runTo(ctx, t.wait.n)
	}
	for _, a := range t.accesses {
		if err := a.unchanged(); err != nil {
			return err
		}
	}
	for _, a := range t.accesses {
		if err := a.m.protect(open); err != nil {
			return err
		}
	}
	err := t.run(ctx)
	t.finish(err == nil)
	for _, a := range t.accesses {
		err = errors.Join(err, a.m.protect(closed))
	}
	return err
}

func (s *stream) Close() error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.done {
		return fmt.Errorf("deferred: stream %s: closed twice", s.name)
	}
	for _, t := range s.queue {
		if t.wait == nil {
			return fmt.Errorf("deferred: close of stream %s while %s is queued: missing Sync", s.name, t)
		}
	}
	s.done = true
	s.b.streams--
	return s.inner.Close()
}
