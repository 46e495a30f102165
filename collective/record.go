package collective

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// MaxRecords is how many operations a flight recorder keeps.
const MaxRecords = 256

// Record is one operation in the flight recorder.
type Record struct {
	Op
	Posted time.Time
	// Last is the rank that announced the operation last, and Arrived when, if this rank waited for that: Arrived is zero when
	// it was itself the last.
	Last    int
	Arrived time.Time
	Ended   time.Time // zero while the operation is in flight
	Err     string    // "" when it is in flight or ended well
}

// String is as in "all-gather #41 block.3 [8192 f32], finished 3s ago".
func (r Record) String() string { return r.at(time.Now()) }

func (r Record) at(now time.Time) string {
	switch {
	case r.Ended.IsZero():
		return fmt.Sprintf("%s, begun %s ago", r.Op, Age(now.Sub(r.Posted)))
	case r.Err != "":
		return fmt.Sprintf("%s, failed %s ago: %s", r.Op, Age(now.Sub(r.Ended)), r.Err)
	}
	return fmt.Sprintf("%s, finished %s ago", r.Op, Age(now.Sub(r.Ended)))
}

// Dump writes records for a log, one a line: when each was posted, how long it took, what it was.
func Dump(w io.Writer, records []Record) error {
	for _, r := range records {
		took := "in flight"
		if !r.Ended.IsZero() {
			took = r.Ended.Sub(r.Posted).Round(time.Microsecond).String()
		}
		line := fmt.Sprintf("%s %12s %s", r.Posted.Format("15:04:05.000000"), took, r.Op)
		if r.Err != "" {
			line += ": " + r.Err
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// Recorder is a flight recorder: the last MaxRecords operations of one rank. The zero value
// is ready. Its methods may be called from several goroutines. It is for transports.
type Recorder struct {
	mu   sync.Mutex
	ring [MaxRecords]Record
	next uint64 // operations ever begun; the next one's ticket
}

// Begin records that op was posted now and returns the ticket that End wants.
func (r *Recorder) Begin(op Op) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.next
	r.ring[t%MaxRecords] = Record{Op: op, Posted: time.Now()}
	r.next++
	return t
}

// Arrive records that another rank announced the operation now, the last so far.
func (r *Recorder) Arrive(ticket uint64, rank int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next-ticket > MaxRecords {
		return
	}
	rec := &r.ring[ticket%MaxRecords]
	rec.Last, rec.Arrived = rank, time.Now()
}

// End records that the operation ended now, with err or nil, and returns its record. One that was overwritten since stays
// as it is, and is returned as zero.
func (r *Recorder) End(ticket uint64, err error) Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next-ticket > MaxRecords {
		return Record{}
	}
	rec := &r.ring[ticket%MaxRecords]
	rec.Ended = time.Now()
	if err != nil {
		rec.Err = err.Error()
	}
	return *rec
}

// Records is a copy of what is kept, oldest first.
func (r *Recorder) Records() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.next, MaxRecords)
	out := make([]Record, 0, n)
	for t := r.next - n; t < r.next; t++ {
		out = append(out, r.ring[t%MaxRecords])
	}
	return out
}

// Last is the operation posted last, false when there was none.
func (r *Recorder) Last() (Record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == 0 {
		return Record{}, false
	}
	return r.ring[(r.next-1)%MaxRecords], true
}
