package spot

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "notice")
		put := func(body string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		remove := func() {
			t.Helper()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		w := watch(t, Options{Provider: File, File: path, Grace: 45 * time.Second})
		in := func(d time.Duration) Notice {
			return Notice{Provider: File, Kind: Preempt, Deadline: time.Now().Add(d)}
		}
		w.want(100 * time.Millisecond) // looks are at 0.5 s and so on from here

		put(`{"deadline_seconds": 12.5, "why": "the\ndrill"}`)
		n := in(400*time.Millisecond + 12500*time.Millisecond)
		n.Why = "the drill"
		w.want(time.Second, n)
		w.want(time.Hour)

		remove()
		w.want(time.Second)
		put("") // told at the second look
		w.want(500 * time.Millisecond)
		w.want(500*time.Millisecond, in(400*time.Millisecond+45*time.Second))
		w.want(time.Hour)

		// A writer that has created the file and not yet written it.
		remove()
		w.want(time.Second)
		put("")
		w.want(500 * time.Millisecond)
		put(`{"deadline_seconds": 0}`)
		w.want(500*time.Millisecond, in(400*time.Millisecond))

		// Removed and created between two looks.
		remove()
		put(`{"deadline_seconds": 1}`)
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		w.want(500*time.Millisecond, in(400*time.Millisecond+time.Second))

		// What it says cannot be read: that it is there is notice enough.
		put("going down")
		w.want(2*time.Second, in(900*time.Millisecond+45*time.Second))
		if n := w.log.count("cannot read what the notice says"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, w.log)
		}

		remove()
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		w.want(time.Minute)
		if n := w.log.count("not a regular file"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, w.log)
		}
		w.end()
	})
}

// A file is watched beside the cloud.
func TestFileAndCloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "notice")
		if err := os.WriteFile(path, []byte(`{}`), 0o600); err != nil {
			t.Fatal(err)
		}
		o, _ := serve(t, &awsMock{action: `{"action":"stop","time":"2000-01-01T00:02:00Z"}`})
		o.File = path
		w := watch(t, o)
		if got := w.after(10 * time.Second); len(got) != 2 || got[0].Provider == got[1].Provider {
			t.Errorf("got %v, want one of the file and one of the cloud", got)
		}
		w.end()
	})
}
