package source

import (
	"context"
	"crypto/sha1" //nolint:gosec // git names its blobs by it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testCommit = "0123456789abcdef0123456789abcdef01234567"
	testToken  = "hf_secret"
)

// fakeHub answers like the hub for org/name at main and at testCommit. Files ending in
// .safetensors are in large-file storage on another server.
type fakeHub struct {
	t     *testing.T
	files map[string]string

	private bool // wants testToken
	gated   bool // lists, but gives no file

	mu       sync.Mutex
	requests []string                                                   // method-less: path and range, in order
	before   func(w http.ResponseWriter, name, rang string) (done bool) // may answer a request for a file itself

	hub, storage *httptest.Server
}

func startHub(t *testing.T, files map[string]string) *fakeHub {
	h := &fakeHub{t: t, files: files}
	h.storage = httptest.NewServer(http.HandlerFunc(h.serveStorage))
	h.hub = httptest.NewServer(http.HandlerFunc(h.serveHub))
	t.Cleanup(h.storage.Close)
	t.Cleanup(h.hub.Close)
	return h
}

func (h *fakeHub) options(t *testing.T) Options {
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return Options{
		Endpoint: h.hub.URL, CacheDir: t.TempDir(), Client: client,
		retries: retryPolicy{tries: 3, first: time.Millisecond, stalled: time.Minute},
	}
}

func (h *fakeHub) log(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, s)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Error-Code", code)
	w.Header().Set("X-Error-Message", message)
	w.WriteHeader(status)
}

func (h *fakeHub) serveHub(w http.ResponseWriter, r *http.Request) {
	if h.private && r.Header.Get("Authorization") != "Bearer "+testToken {
		refuse(w, http.StatusUnauthorized, "RepoNotFound", "Repository not found")
		return
	}
	if revision, ok := strings.CutPrefix(r.URL.Path, "/api/models/org/name/revision/"); ok {
		h.log("list " + revision)
		h.list(w, revision)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/org/name/resolve/"+testCommit+"/")
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
	case h.gated:
		refuse(w, http.StatusForbidden, "GatedRepo", "Access to model org/name is restricted")
	case strings.HasSuffix(name, ".safetensors"):
		http.Redirect(w, r, h.storage.URL+"/lfs/"+name, http.StatusFound)
	default:
		h.serveFile(w, r, name)
	}
}

func (h *fakeHub) list(w http.ResponseWriter, revision string) {
	if revision != "main" && revision != testCommit && revision != "refs/pr/1" {
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id")
		return
	}
	type sibling map[string]any
	var siblings []sibling
	for _, name := range slices.Sorted(maps.Keys(h.files)) {
		content := h.files[name]
		s := sibling{"rfilename": name, "size": len(content)}
		if strings.HasSuffix(name, ".safetensors") {
			sum := sha256.Sum256([]byte(content))
			s["lfs"] = map[string]any{"sha256": hex.EncodeToString(sum[:]), "size": len(content), "pointerSize": 134}
			s["blobId"] = strings.Repeat("0", 40)
		} else {
			sum := sha1.Sum([]byte(fmt.Sprintf("blob %d\x00%s", len(content), content))) //nolint:gosec // as git does
			s["blobId"] = hex.EncodeToString(sum[:])
		}
		siblings = append(siblings, s)
	}
	json.NewEncoder(w).Encode(map[string]any{"id": "org/name", "sha": testCommit, "siblings": siblings})
}

func (h *fakeHub) serveStorage(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		h.t.Errorf("%s: the token was sent to another server", r.URL.Path)
	}
	h.serveFile(w, r, strings.TrimPrefix(r.URL.Path, "/lfs/"))
}

func (h *fakeHub) serveFile(w http.ResponseWriter, r *http.Request, name string) {
	rang := r.Header.Get("Range")
	h.log(strings.TrimSpace(name + " " + rang))
	h.mu.Lock()
	before := h.before
	h.mu.Unlock()
	if before != nil && before(w, name, rang) {
		return
	}
	content, ok := h.files[name]
	if !ok {
		refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

var hubFiles = map[string]string{
	"config.json": `{"model_type": "llama"}`, "model.safetensors": strings.Repeat("weights ", 1000), "tokenizer.json": "{}",
	"README.md": "never fetched", "onnx/model.onnx": "never fetched",
}

func TestHubModel(t *testing.T) {
	h := startHub(t, hubFiles)
	h.private = true
	o := h.options(t)
	o.Token = testToken
	progress := map[string]int64{}
	o.Progress = func(file string, done, total int64) {
		if total != int64(len(hubFiles[file])) {
			t.Errorf("progress of %s: total %d, want %d", file, total, len(hubFiles[file]))
		}
		progress[file] = done
	}
	s, err := Model(t.Context(), "hf://org/name", o)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(s), "config.json model.safetensors tokenizer.json"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if want := "hf://org/name@" + testCommit; s.Pinned != want {
		t.Errorf("pinned: got %s, want %s", s.Pinned, want)
	}
	if progress["model.safetensors"] != 8000 {
		t.Errorf("progress: got %v, want 8000 bytes of model.safetensors", progress)
	}
	got, err := os.ReadFile(filepath.Join(s.Path, "model.safetensors"))
	if err != nil || string(got) != hubFiles["model.safetensors"] {
		t.Errorf("model.safetensors: %d bytes, %v", len(got), err)
	}
	local := tree(t, hubFiles)
	same, err := Model(t.Context(), local, Options{})
	if err != nil || same.Digest() != s.Digest() {
		t.Errorf("the same folder here: %v, digest %s, want %s", err, same.Digest(), s.Digest())
	}

	// Again: only main is asked for. Pinned: nothing is.
	h.requests = nil
	again, err := Model(t.Context(), "hf://org/name", o)
	if err != nil || again.Digest() != s.Digest() || !slices.Equal(h.requests, []string{"list main"}) {
		t.Errorf("again: %v, requests %v", err, h.requests)
	}
	h.requests = nil
	pinned, err := Model(t.Context(), s.Pinned, o)
	if err != nil || pinned.Digest() != s.Digest() || len(h.requests) != 0 {
		t.Errorf("pinned: %v, requests %v", err, h.requests)
	}

	// What was changed in the cache is not used.
	if err := os.WriteFile(filepath.Join(s.Path, "tokenizer.json"), []byte("[]"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Model(t.Context(), s.Pinned, o); err == nil || !strings.Contains(err.Error(), "tokenizer.json changed after it was downloaded: delete") {
		t.Errorf("changed cache: got %v", err)
	}
}

func TestHubSharded(t *testing.T) {
	files := map[string]string{
		"config.json": "{}", indexName: `{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`,
		"model-00001-of-00002.safetensors": "one", "model-00002-of-00002.safetensors": "two", "other.safetensors": "never fetched",
	}
	h := startHub(t, files)
	s, err := Model(t.Context(), "hf://org/name@refs/pr/1", h.options(t))
	if err != nil {
		t.Fatal(err)
	}
	want := "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json"
	if got := names(s); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestHubRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		change    func(*fakeHub, *Options)
		want      string
	}{
		{"no such model", "hf://org/other", func(*fakeHub, *Options) {}, "404 (Repository not found): nothing at"},
		{"no such model for this token", "hf://org/other", func(_ *fakeHub, o *Options) { o.Token = testToken }, "that HF_TOKEN may read: check the name"},
		{"no such revision", "hf://org/name@v9", func(*fakeHub, *Options) {}, `no revision "v9": see `},
		{"private", "hf://org/name", func(h *fakeHub, _ *Options) { h.private = true }, "401 (Repository not found): no such model, or a private one: check the name, or set HF_TOKEN"},
		{"wrong token", "hf://org/name", func(h *fakeHub, o *Options) { h.private, o.Token = true, "hf_wrong" }, "HF_TOKEN is wrong or expired: see "},
		{"gated", "hf://org/name", func(h *fakeHub, _ *Options) { h.gated = true }, "gated (Access to model org/name is restricted): accept its terms at "},
		{"gated for this token", "hf://org/name", func(h *fakeHub, o *Options) { h.gated, o.Token = true, testToken }, "with the account of HF_TOKEN"},
		{"no weights", "hf://org/name", func(h *fakeHub, _ *Options) { h.files = map[string]string{"config.json": "{}"} }, "only safetensors weights are read"},
		{"endpoint without scheme", "hf://org/name", func(_ *fakeHub, o *Options) { o.Endpoint = "hub.example" }, `endpoint "hub.example": want https://host`},
		{"not a hub", "hf://org/name", func(h *fakeHub, o *Options) { o.Endpoint = h.storage.URL + "/x" }, "hub answers 404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := startHub(t, hubFiles)
			o := h.options(t)
			tt.change(h, &o)
			_, err := Model(t.Context(), tt.ref, o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "model "+tt.ref) {
				t.Errorf("got %v, want the reference and %q", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), testToken) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%q: want one line without the token", err)
			}
		})
	}
}

// TestHubResumes: the connection breaks within the weights, again and again; every try
// goes on where the last one ended.
func TestHubResumes(t *testing.T) {
	h := startHub(t, hubFiles)
	content := hubFiles["model.safetensors"]
	h.before = func(w http.ResponseWriter, name, rang string) bool {
		if name != "model.safetensors" {
			return false
		}
		var from int
		if rang != "" {
			if _, err := fmt.Sscanf(rang, "bytes=%d-", &from); err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
		if rang != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		to := min(from+1000, len(content))
		fmt.Fprint(w, content[from:to]) // the rest of what was promised does not come
		return true
	}
	s, err := Model(t.Context(), "hf://org/name", h.options(t))
	if err != nil {
		t.Fatal(err)
	}
	var ranges []string
	for _, r := range h.requests {
		if rest, ok := strings.CutPrefix(r, "model.safetensors"); ok {
			ranges = append(ranges, strings.TrimSpace(rest))
		}
	}
	want := []string{"", "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-", "bytes=5000-", "bytes=6000-", "bytes=7000-"}
	if !slices.Equal(ranges, want) {
		t.Errorf("ranges %q, want %q", ranges, want)
	}
	got, err := os.ReadFile(filepath.Join(s.Path, "model.safetensors"))
	if err != nil || string(got) != content {
		t.Errorf("%d bytes, %v, want the content", len(got), err)
	}
}

func TestHubTrouble(t *testing.T) {
	content := hubFiles["model.safetensors"]
	type answer func(w http.ResponseWriter, try int, rang string) (done bool)
	for _, tt := range []struct {
		name   string
		answer answer
		tries  int
		want   string // what the error says; "" means success
	}{
		{"busy, then well", func(w http.ResponseWriter, try int, _ string) bool {
			if try < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return try < 3
		}, 3, ""},
		{"always busy", func(w http.ResponseWriter, _ int, _ string) bool { w.WriteHeader(http.StatusBadGateway); return true }, 3, "502 Bad Gateway"},
		{"a server that does not resume", func(w http.ResponseWriter, try int, _ string) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			if try == 1 {
				fmt.Fprint(w, content[:4000])
			} else {
				fmt.Fprint(w, content)
			}
			return true
		}, 2, ""},
		{"a wrong part is dropped", func(w http.ResponseWriter, try int, _ string) bool {
			if try == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				fmt.Fprint(w, strings.Repeat("x", 1000))
			}
			return try == 1
		}, 3, ""},
		{"wrong content", func(w http.ResponseWriter, _ int, _ string) bool {
			fmt.Fprint(w, strings.Repeat("x", len(content)))
			return true
		}, 1, "download model.safetensors: SHA-256 "},
		{"too long", func(w http.ResponseWriter, _ int, _ string) bool { fmt.Fprint(w, content+"x"); return true }, 1, "longer than the 8000 bytes that the hub listed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := startHub(t, hubFiles)
			try := 0
			h.before = func(w http.ResponseWriter, name, rang string) bool {
				if name != "model.safetensors" {
					return false
				}
				try++
				return tt.answer(w, try, rang)
			}
			o := h.options(t)
			s, err := Model(t.Context(), "hf://org/name", o)
			if try != tt.tries {
				t.Errorf("%d tries, want %d", try, tt.tries)
			}
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				left, _ := filepath.Glob(filepath.Join(o.CacheDir, "*", "*", "model.safetensors"))
				if len(left) > 0 {
					t.Errorf("left %v", left)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(s.Path, "model.safetensors")); err != nil || string(got) != content {
				t.Errorf("%d bytes, %v, want the content", len(got), err)
			}
		})
	}
}

// TestHubStall: a server that goes silent is left and asked again.
func TestHubStall(t *testing.T) {
	h := startHub(t, hubFiles)
	release := make(chan struct{})
	first := true
	h.before = func(w http.ResponseWriter, name, _ string) bool {
		if name != "model.safetensors" || !first {
			return false
		}
		first = false
		w.Header().Set("Content-Length", fmt.Sprint(len(hubFiles[name])))
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-release
		return true
	}
	o := h.options(t)
	o.retries.stalled = 20 * time.Millisecond
	var told []string
	o.Notify = func(message string) {
		told = append(told, message)
		if strings.Contains(message, "no data for 20ms") {
			close(release)
		}
	}
	if _, err := Model(t.Context(), "hf://org/name", o); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || !strings.Contains(told[0], "no data for 20ms: trying again in") {
		t.Errorf("told %q", told)
	}
}

func TestHubCancelled(t *testing.T) {
	h := startHub(t, hubFiles)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	defer close(release)
	h.before = func(w http.ResponseWriter, name, _ string) bool {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		cancel()
		<-release
		return true
	}
	if _, err := Model(ctx, "hf://org/name", h.options(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// TestLock: the second waits, says so once, gives up with its context, and gets the lock
// when the first lets go.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("the first waits") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := 0
	if _, err := lock(ctx, path, func() { waits++; cancel() }); !errors.Is(err, context.Canceled) || waits != 1 {
		t.Errorf("got %v after %d notices, want Canceled after 1", err, waits)
	}
	second, err := lock(t.Context(), path, unlock)
	if err != nil {
		t.Fatal(err)
	}
	second()
}
