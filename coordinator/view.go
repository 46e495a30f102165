package coordinator

import (
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Status is what a run is doing.
type Status = zerofleetv1.StatusResponse

// Event is a line of events.jsonl: what happened, and why.
type Event struct {
	Time   time.Time
	Type   string // a word or two with underscores
	What   string // in words
	Why    string // in words; may be empty
	Worker string // the id of the worker that told it; empty: the coordinator
	Fields map[string]string
}

// View shows a run to a person. One goroutine calls it, in the order in which things happened, and nothing else waits
// for it: a terminal that takes no output stops no training.
type View interface {
	// Status tells what the run is doing, whenever it has changed.
	Status(s *Status)
	// Step tells of a committed step, each once.
	Step(l *membership.StepLine)
	// Evaluation tells of an evaluation's result, each once.
	Evaluation(l *membership.EvaluationLine)
	// Event tells of anything else.
	Event(e Event)
	// Close is the last call.
	Close() error
}

// feed calls a View from a goroutine of its own.
type feed struct {
	view View
	done chan struct{}
	err  error // of the view's Close; read only after done

	mu     sync.Mutex
	more   *sync.Cond
	queue  []func(View)
	closed bool
}

func newFeed(v View) *feed {
	f := &feed{view: v, done: make(chan struct{})}
	f.more = sync.NewCond(&f.mu)
	go func() {
		defer close(f.done)
		for {
			batch, open := f.take()
			for _, tell := range batch {
				tell(v)
			}
			if !open {
				f.err = v.Close()
				return
			}
		}
	}()
	return f
}

func (f *feed) take() (batch []func(View), open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) == 0 && !f.closed {
		f.more.Wait()
	}
	batch, f.queue = f.queue, nil
	return batch, !f.closed || len(batch) > 0
}

func (f *feed) tell(what func(View)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.queue = append(f.queue, what)
		f.more.Signal()
	}
}

// close shows what is left and waits for it.
func (f *feed) close() error {
	f.mu.Lock()
	f.closed = true
	f.more.Signal()
	f.mu.Unlock()
	<-f.done
	return f.err
}
