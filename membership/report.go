package membership

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// maxBatch bounds the entries of one Report call.
const maxBatch = 512

// StepLine is a step's line of metrics.jsonl, EvaluationLine an evaluation's result.
type (
	StepLine       = zerofleetv1.StepLine
	EvaluationLine = zerofleetv1.EvaluationLine
)

// ReportState tells what this worker is doing. Of several undelivered states only the newest is kept. memoryBytes is by
// use, from the allocator; nil leaves the last one told. Like all reports it is queued, and never waits.
func (s *Session) ReportState(phase Phase, message string, step uint64, memoryBytes map[string]int64) {
	s.reports.add(&zerofleetv1.ReportEntry{What: &zerofleetv1.ReportEntry_State{State: &zerofleetv1.WorkerState{
		Phase: phase, Message: message, Step: step, MemoryBytes: memoryBytes,
	}}})
}

// ReportStep tells of a committed step. Every rank may: the coordinator keeps each step once.
func (s *Session) ReportStep(l *StepLine) {
	s.reports.add(&zerofleetv1.ReportEntry{What: &zerofleetv1.ReportEntry_Step{Step: proto.CloneOf(l)}})
}

// ReportEvaluation tells of an evaluation's result.
func (s *Session) ReportEvaluation(l *EvaluationLine) {
	s.reports.add(&zerofleetv1.ReportEntry{What: &zerofleetv1.ReportEntry_Evaluation{Evaluation: proto.CloneOf(l)}})
}

// ReportEvent adds a line to the run's events.jsonl: what happened and why, in words, and its facts by name.
func (s *Session) ReportEvent(kind, what, why string, fields map[string]string) {
	s.reports.add(&zerofleetv1.ReportEntry{What: &zerofleetv1.ReportEntry_Event{Event: &zerofleetv1.Event{
		Type: kind, What: what, Why: why, Fields: fields,
	}}})
}

// Flush waits until everything reported so far is acknowledged. It fails when the session ends or ctx does.
func (s *Session) Flush(ctx context.Context) error {
	for {
		empty, changed := s.reports.state()
		if empty {
			return nil
		}
		select {
		case <-changed:
		case <-s.done:
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unacknowledged are the reports that no coordinator has kept, oldest first.
func (s *Session) Unacknowledged() []*zerofleetv1.ReportEntry { return s.reports.head(-1) }

// deliver sends the queue's head until it is acknowledged, then the next.
func (s *Session) deliver(ctx context.Context) {
	wait := newBackoff()
	for {
		entries := s.reports.head(maxBatch)
		if len(entries) == 0 {
			select {
			case <-s.reports.filled:
				continue
			case <-ctx.Done():
				return
			}
		}
		var r *zerofleetv1.ReportResponse
		err := s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) (err error) {
			r, err = c.Report(ctx, &zerofleetv1.ReportRequest{Worker: s.id, Entries: entries})
			return err
		})
		if err != nil {
			s.refused(ctx, err)
			return
		}
		if s.reports.acknowledge(r.GetAcknowledged()) {
			wait.Reset()
			continue
		}
		// A step before these has not arrived yet, from another worker.
		if sleep(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}

// queue holds reports in order until they are acknowledged.
type queue struct {
	filled chan struct{} // holds one token when something was added

	mu      sync.Mutex
	last    uint64 // sequence of the newest entry
	sent    uint64 // sequence of the newest entry that head has given out
	entries []*zerofleetv1.ReportEntry
	newest  *zerofleetv1.WorkerState // of all states ever added; nil: none
	changed chan struct{}            // closed, and replaced, when entries shrink
}

func newQueue() *queue {
	return &queue{filled: make(chan struct{}, 1), changed: make(chan struct{})}
}

func (q *queue) add(e *zerofleetv1.ReportEntry) {
	e.UnixNanos = time.Now().UnixNano()
	q.mu.Lock()
	q.last++
	e.Sequence = q.last
	if e.GetState() != nil {
		q.newest = e.GetState()
	}
	if n := len(q.entries); n > 0 && e.GetState() != nil && q.entries[n-1].GetState() != nil && q.entries[n-1].GetSequence() > q.sent {
		if e.GetState().MemoryBytes == nil {
			e.GetState().MemoryBytes = q.entries[n-1].GetState().GetMemoryBytes()
		}
		q.entries[n-1] = e
	} else {
		q.entries = append(q.entries, e)
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// again adds the newest state once more: whoever is told may not have been before.
func (q *queue) again() {
	q.mu.Lock()
	state := proto.CloneOf(q.newest)
	q.mu.Unlock()
	if state != nil {
		q.add(&zerofleetv1.ReportEntry{What: &zerofleetv1.ReportEntry_State{State: state}})
	}
}

// head is the oldest n entries, all if n < 0.
func (q *queue) head(n int) []*zerofleetv1.ReportEntry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n < 0 || n > len(q.entries) {
		n = len(q.entries)
	}
	if n > 0 {
		q.sent = max(q.sent, q.entries[n-1].GetSequence())
	}
	return append([]*zerofleetv1.ReportEntry(nil), q.entries[:n]...)
}

// acknowledge forgets the entries up to sequence and says whether there were any.
func (q *queue) acknowledge(sequence uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.entries) && q.entries[n].GetSequence() <= sequence {
		n++
	}
	if n == 0 {
		return false
	}
	q.entries = append([]*zerofleetv1.ReportEntry(nil), q.entries[n:]...)
	close(q.changed)
	q.changed = make(chan struct{})
	return true
}

func (q *queue) state() (empty bool, changed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries) == 0, q.changed
}
