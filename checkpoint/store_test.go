package checkpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"gocloud.dev/blob/memblob"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/checkpoint/checkpointtest"
)

var ctx = context.Background()

func TestStores(t *testing.T) {
	t.Run("dir", func(t *testing.T) {
		checkpointtest.Run(t, func(t *testing.T) checkpoint.Store { return checkpoint.Dir(t.TempDir()) })
	})
	t.Run("memory", func(t *testing.T) {
		checkpointtest.Run(t, func(t *testing.T) checkpoint.Store {
			return checkpoint.NewBlob(memblob.OpenBucket(nil), "mem://")
		})
	})
	t.Run("s3", func(t *testing.T) {
		checkpointtest.Run(t, func(t *testing.T) checkpoint.Store {
			s, _ := openS3(t, "runs/one")
			return s
		})
	})
	for name, start := range map[string]func(*testing.T) *objectServer{"versitygw": startVersity, "fake-gcs-server": startGCS, "azurite": startAzurite} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			checkpointtest.Run(t, func(t *testing.T) checkpoint.Store { return server.store(t) })
		})
	}
}

// s3Server is an S3 server in this process whose requests can be made to fail.
type s3Server struct {
	*httptest.Server
	s3 http.Handler

	mu     sync.Mutex
	faults []fault
	seen   []string // method and query's names of every request
}

// fault happens to requests that match, the first skip of them excepted, times times.
type fault struct {
	match       func(*http.Request) bool
	skip, times int
	do          func(s *s3Server, w http.ResponseWriter, r *http.Request)
}

func (s *s3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery)
	var do func(*s3Server, http.ResponseWriter, *http.Request)
	for i := range s.faults {
		f := &s.faults[i]
		if do != nil || !f.match(r) {
			continue
		}
		if f.skip > 0 {
			f.skip--
		} else if f.times > 0 {
			f.times--
			do = f.do
		}
	}
	s.mu.Unlock()
	if do != nil {
		do(s, w, r)
		return
	}
	s.s3.ServeHTTP(w, r)
}

func (s *s3Server) inject(f ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

func (s *s3Server) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, f := range s.faults {
		n += f.times
	}
	return n
}

func method(m string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m }
}

func isList(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Has("list-type")
}

func isGet(r *http.Request) bool {
	return r.Method == http.MethodGet && !r.URL.Query().Has("list-type")
}

// isObject excepts what is asked of the bucket itself.
func isObject(r *http.Request) bool {
	return r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/step-")
}

func isUploadPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

func status(code int) func(*s3Server, http.ResponseWriter, *http.Request) {
	return func(_ *s3Server, w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(code)
	}
}

// slowDown is how S3 says that it is asked too often.
func slowDown(_ *s3Server, w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
}

// reset resets the connection when half of the request's body is there, as a machine that fails does.
func reset(_ *s3Server, w http.ResponseWriter, r *http.Request) {
	io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// trickle answers a little at a time: slower than a stall in all, and never silent for as long as one.
func trickle(s *s3Server, w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	s.s3.ServeHTTP(answer, r)
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for piece := range slices.Chunk(answer.Body.Bytes(), 2000) {
		<-tick.C
		w.Write(piece)
		w.(http.Flusher).Flush()
	}
}

// cutRequest closes the connection when half of the request's body is there.
func cutRequest(_ *s3Server, _ http.ResponseWriter, r *http.Request) {
	io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	panic(http.ErrAbortHandler)
}

// cutAnswer does what is asked and closes the connection when half of the answer is sent.
func cutAnswer(s *s3Server, w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	s.s3.ServeHTTP(answer, r)
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

// stall answers nothing until the client gives up.
func stall(_ *s3Server, _ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func newS3(t *testing.T) *s3Server {
	t.Helper()
	// The credentials are any: the server does not look.
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		t.Setenv(k, v)
	}
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	s := &s3Server{s3: gofakes3.New(backend).Server()}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *s3Server) where(bucket, prefix string) string {
	return "s3://" + bucket + "/" + prefix + "?region=us-east-1&use_path_style=true&endpoint=" + url.QueryEscape(s.URL)
}

func openS3(t *testing.T, prefix string) (*checkpoint.Blob, *s3Server) {
	t.Helper()
	server := newS3(t)
	s, err := checkpoint.OpenStore(ctx, server.where("bucket", prefix))
	if err != nil {
		t.Fatal(err)
	}
	b := s.(*checkpoint.Blob)
	b.Hasten(t, 30*time.Second)
	return b, server
}

const large = checkpoint.MultipartBytes // an upload of two parts

func TestOneFaultIsRetried(t *testing.T) {
	oneFault(t, func(t *testing.T) (*checkpoint.Blob, *s3Server) { return openS3(t, "p") })
}

// Each fault stands between a store and a real server.
func TestOneFaultBeforeARealServer(t *testing.T) {
	server := startVersity(t)
	oneFault(t, server.faulty)
}

func oneFault(t *testing.T, open func(t *testing.T) (*checkpoint.Blob, *s3Server)) {
	for name, c := range map[string]struct {
		f     fault
		bytes int
	}{
		"put answers 500":               {fault{match: method(http.MethodPut), do: status(500)}, 100_000},
		"put answers 503":               {fault{match: method(http.MethodPut), do: status(503)}, 100_000},
		"put is cut":                    {fault{match: method(http.MethodPut), do: cutRequest}, 100_000},
		"put's answer is lost":          {fault{match: method(http.MethodPut), do: cutAnswer}, 100_000},
		"the second part answers 500":   {fault{match: isUploadPart, skip: 1, do: status(500)}, large},
		"the first part is cut":         {fault{match: isUploadPart, do: cutRequest}, large},
		"completing answers 500":        {fault{match: isComplete, do: status(500)}, large},
		"the completing answer is lost": {fault{match: isComplete, do: cutAnswer}, large},
		"get answers 500":               {fault{match: isGet, do: status(500)}, 100_000},
		"get's answer is cut":           {fault{match: isGet, do: cutAnswer}, 100_000},
		"get stalls":                    {fault{match: isGet, do: stall}, 100_000},
		"get trickles":                  {fault{match: isGet, do: trickle}, 100_000},
		"put is told to slow down":      {fault{match: method(http.MethodPut), do: slowDown}, 100_000},
		"put is reset":                  {fault{match: method(http.MethodPut), do: reset}, 100_000},
		"a part is reset":               {fault{match: isUploadPart, skip: 1, do: reset}, large},
		"a part is told to slow down":   {fault{match: isUploadPart, do: slowDown}, large},
		"head answers 500":              {fault{match: isObject, do: status(500)}, 100_000},
		"list answers 500":              {fault{match: isList, do: status(500)}, 100_000},
		"list's answer is cut":          {fault{match: isList, do: cutAnswer}, 100_000},
		"delete answers 500":            {fault{match: method(http.MethodDelete), do: status(500)}, 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			s, server := open(t)
			if strings.Contains(name, "stalls") || strings.Contains(name, "trickles") {
				s.Hasten(t, 500*time.Millisecond)
			}
			c.f.times = 1
			server.inject(c.f)
			want := checkpointtest.Content(c.bytes)
			if err := s.Put(ctx, "step-1/a", checkpointtest.Writer(want)); err != nil {
				t.Fatal(err)
			}
			if got := checkpointtest.Read(t, s, "step-1/a"); !bytes.Equal(got, want) {
				t.Error("read other bytes than were put")
			}
			if keys := checkpointtest.Keys(t, s, ""); len(keys) != 1 {
				t.Errorf("listed %v", keys)
			}
			if err := s.Delete(ctx, "step-1/a"); err != nil {
				t.Error(err)
			}
			if server.left() > 0 {
				t.Error("the fault did not happen")
			}
		})
	}
}

func TestAFaultThatStaysIsAnError(t *testing.T) {
	const always = 1000
	put := func(n int) func(s checkpoint.Store) error {
		return func(s checkpoint.Store) error {
			return s.Put(ctx, "step-1/new", checkpointtest.Writer(checkpointtest.Content(n)))
		}
	}
	for name, c := range map[string]struct {
		f    fault
		do   func(s checkpoint.Store) error
		want string
	}{
		"put answers 500":        {fault{match: method(http.MethodPut), do: status(500)}, put(1000), "put step-1/new in s3://bucket/p: after 6 tries"},
		"put is cut":             {fault{match: method(http.MethodPut), do: cutRequest}, put(1000), "put step-1/new in s3://bucket/p: after 6 tries"},
		"put answers 403":        {fault{match: method(http.MethodPut), do: status(403)}, put(1000), "put step-1/new in s3://bucket/p: "},
		"completing answers 500": {fault{match: isComplete, do: status(500)}, put(large), "put step-1/new in s3://bucket/p: after 6 tries"},
		"head answers 500": {fault{match: method(http.MethodHead), do: status(500)}, func(s checkpoint.Store) error {
			_, err := s.Open(ctx, "step-1/old")
			return err
		}, "open step-1/old in s3://bucket/p: after 6 tries"},
		"get is cut to nothing": {fault{match: isGet, do: status(500)}, func(s checkpoint.Store) error {
			o, err := s.Open(ctx, "step-1/old")
			if err != nil {
				return err
			}
			return o.ReadAt(ctx, make([]byte, 3), 0)
		}, "read step-1/old in s3://bucket/p: after 6 tries"},
		"list answers 500": {fault{match: isList, do: status(500)}, func(s checkpoint.Store) error {
			_, err := checkpoint.List(ctx, s)
			return err
		}, "list step-* in s3://bucket/p: after 6 tries"},
		"delete answers 500": {fault{match: method(http.MethodDelete), do: status(500)}, func(s checkpoint.Store) error {
			return s.Delete(ctx, "step-1/old")
		}, "delete step-1/old in s3://bucket/p: after 6 tries"},
	} {
		t.Run(name, func(t *testing.T) {
			s, server := openS3(t, "p")
			if err := s.Put(ctx, "step-1/old", checkpointtest.Writer([]byte("old"))); err != nil {
				t.Fatal(err)
			}
			c.f.times = always
			server.inject(c.f)
			err := c.do(s)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v, want %s...", err, c.want)
			}
			if strings.Contains(name, "403") && server.left() != always-1 {
				t.Errorf("tried %d times what is forbidden", always-server.left())
			}
			server.inject()
			if keys := checkpointtest.Keys(t, s, ""); len(keys) != 1 || keys[0] != "step-1/old" {
				t.Errorf("visible: %v, want only what was whole", keys)
			}
		})
	}
}

// A read that breaks off goes on where it was: what was received is not asked for again.
func TestABrokenReadGoesOn(t *testing.T) {
	s, server := openS3(t, "p")
	want := checkpointtest.Content(200_000)
	if err := s.Put(ctx, "step-1/a", checkpointtest.Writer(want)); err != nil {
		t.Fatal(err)
	}
	var ranges []string
	server.inject(fault{match: func(r *http.Request) bool {
		if isGet(r) {
			ranges = append(ranges, r.Header.Get("Range"))
		}
		return isGet(r)
	}, times: 1, do: cutAnswer})
	o, err := s.Open(ctx, "step-1/a")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100_000)
	if err := o.ReadAt(ctx, got, 50_000); err != nil || !bytes.Equal(got, want[50_000:150_000]) {
		t.Errorf("other bytes, or %v", err)
	}
	if len(ranges) != 2 || ranges[0] != "bytes=50000-149999" || ranges[1] != "bytes=100000-149999" {
		t.Errorf("asked for %v, want the range and then its second half", ranges)
	}
}

func TestACheckpointSurvivesABadNetwork(t *testing.T) {
	t.Run("gofakes3", func(t *testing.T) {
		badNetwork(t, func(t *testing.T) (*checkpoint.Blob, *s3Server) { return openS3(t, "p") })
	})
	t.Run("versitygw", func(t *testing.T) { badNetwork(t, startVersity(t).faulty) })
}

func badNetwork(t *testing.T, open func(t *testing.T) (*checkpoint.Blob, *s3Server)) {
	s, server := open(t)
	var faults []fault
	for _, match := range []func(*http.Request) bool{method(http.MethodPut), isObject, isGet, isList} {
		for i, do := range []func(*s3Server, http.ResponseWriter, *http.Request){status(500), cutAnswer, slowDown, reset} {
			faults = append(faults, fault{match: match, skip: 2 * i, times: 1, do: do})
		}
	}
	server.inject(faults...)
	if _, err := checkpointtest.Save(ctx, s, 4, 3, true); err != nil {
		t.Fatal(err)
	}
	checkpointtest.Check(t, s, 4)
}

// When the store does not answer, no older checkpoint is taken for the newest.
func TestAStoreThatDoesNotAnswerIsNotDamage(t *testing.T) {
	s, server := openS3(t, "p")
	for _, step := range []int64{4, 8} {
		if _, err := checkpointtest.Save(ctx, s, step, 1, true); err != nil {
			t.Fatal(err)
		}
	}
	server.inject(fault{match: func(r *http.Request) bool { return isGet(r) && strings.Contains(r.URL.Path, "step-0000000008") }, times: 1000, do: status(500)})
	if m, damaged, err := checkpoint.Newest(ctx, s); err == nil || errors.Is(err, checkpoint.ErrCorrupt) || errors.Is(err, checkpoint.ErrNone) {
		t.Errorf("newest: %v, damaged %v, %v: want the store's error", m, damaged, err)
	}
	server.inject()
	m, _, err := checkpoint.Newest(ctx, s)
	if err != nil || m.Step != 8 {
		t.Fatalf("newest: %v, %v", m, err)
	}
	server.inject(fault{match: isGet, times: 1000, do: status(500)})
	if faults := checkpoint.Verify(ctx, s, m); len(faults) != 1 || errors.Is(faults[0], checkpoint.ErrCorrupt) {
		t.Errorf("verify: %v, want the store's error", faults)
	}
}

func TestUnfinishedUploadsAreEnded(t *testing.T) {
	s, server := openS3(t, "p")
	// A writer that dies leaves its upload: here, its last words do not arrive.
	server.inject(fault{match: isUploadPart, times: 1000, do: status(403)}, fault{match: method(http.MethodDelete), times: 1000, do: status(500)})
	if err := s.Put(ctx, "step-1/a", checkpointtest.Writer(checkpointtest.Content(large))); err == nil {
		t.Fatal("want an error")
	}
	server.inject()
	unfinished := func() string {
		r, err := http.Get(server.URL + "/bucket?uploads")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := checkpoint.RemoveTemporary(ctx, s, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(unfinished(), "p/step-1/a") {
		t.Errorf("an upload that is going on was ended, or there was none: %s", unfinished())
	}
	if err := checkpoint.RemoveTemporary(ctx, s, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(unfinished(), "p/step-1/a") {
		t.Errorf("still there: %s", unfinished())
	}
}

func TestTemporaryFilesOfDeadWritersAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := checkpoint.Dir(dir)
	dead := filepath.Join(dir, ".part-dead")
	if err := os.WriteFile(dead, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Sweep(ctx, s, 1, time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); err != nil {
		t.Errorf("a file that is being written was removed: %v", err)
	}
	if err := checkpoint.Sweep(ctx, s, 1, time.Hour, time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestOpenStore(t *testing.T) {
	server := newS3(t)
	for where, want := range map[string]string{
		"":                           "no path",
		"ftp://b/p":                  "ftp://b/p: want a path, s3://, gs:// or azblob://",
		"s3://":                      "want s3://BUCKET/PREFIX",
		"s3:///p":                    "want s3://BUCKET/PREFIX",
		"s3://b/a/../c":              `prefix "a/../c"`,
		"gs://b?prefix=x":            "belong in the path",
		server.where("none", "p"):    "s3://none/p: no such bucket",
		server.where("bucket", "p"):  "",
		server.where("bucket", ""):   "",
		server.where("bucket", "p/"): "",
		"a/folder":                   "",
	} {
		_, err := checkpoint.OpenStore(ctx, where)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", where, err, want)
		}
	}
	// Two prefixes of a bucket are two stores.
	a, err := checkpoint.OpenStore(ctx, server.where("bucket", "a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := checkpoint.OpenStore(ctx, server.where("bucket", "a/b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Put(ctx, "step-1/x", checkpointtest.Writer(nil)); err != nil {
		t.Fatal(err)
	}
	if keys := checkpointtest.Keys(t, a, "step-"); len(keys) > 0 {
		t.Errorf("one prefix lists another's %v", keys)
	}
}
