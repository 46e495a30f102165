package coordinator

import (
	"errors"
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

// feed calls Views from a goroutine of its own.
type feed struct {
	done chan struct{}
	err  error // of the views' Close; read only after done

	mu     sync.Mutex
	more   *sync.Cond
	views  []View
	queue  []func(View)
	closed bool
}

func newFeed(v View) *feed {
	f := &feed{views: []View{v}, done: make(chan struct{})}
	f.more = sync.NewCond(&f.mu)
	go func() {
		defer close(f.done)
		for {
			views, batch, open := f.take()
			for _, tell := range batch {
				for _, v := range views {
					tell(v)
				}
			}
			if open {
				continue
			}
			var errs []error
			for _, v := range views {
				errs = append(errs, v.Close())
			}
			f.err = errors.Join(errs...)
			return
		}
	}()
	return f
}

// add shows what is told from now on to v too.
func (f *feed) add(v View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.views = append(f.views, v)
}

func (f *feed) take() (views []View, batch []func(View), open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) == 0 && !f.closed {
		f.more.Wait()
	}
	batch, f.queue = f.queue, nil
	return f.views, batch, !f.closed || len(batch) > 0
}

func (f *feed) tell(what func(View)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.queue = append(f.queue, what)
		f.more.Signal()
	}
}

// close shows what is left, closes the views and waits for that.
func (f *feed) close() error {
	f.mu.Lock()
	f.closed = true
	f.more.Signal()
	f.mu.Unlock()
	<-f.done
	return f.err
}
