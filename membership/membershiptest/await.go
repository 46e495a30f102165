package membershiptest

import (
	"testing"
	"time"
)

// Await waits until ok holds, looking every few milliseconds, and fails the test when that takes longer than patience.
func Await(t testing.TB, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
