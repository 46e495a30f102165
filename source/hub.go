package source

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// maxListingBytes bounds the hub's description of a model.
const maxListingBytes = 32 << 20

// hubRef is hf://org/name@revision.
type hubRef struct {
	org, name, revision string
}

var (
	hubName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$`)
	commit  = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

func parseHubRef(ref string) (hubRef, error) {
	id, revision, given := strings.Cut(strings.TrimPrefix(ref, HubScheme), "@")
	if !given {
		revision = "main"
	}
	org, name, ok := strings.Cut(id, "/")
	if !ok || !hubName.MatchString(org) || !hubName.MatchString(name) || revision == "" || len(revision) > 255 {
		return hubRef{}, fmt.Errorf("model %q: want %sorg/name or %sorg/name@revision", ref, HubScheme, HubScheme)
	}
	return hubRef{org, name, revision}, nil
}

func (r hubRef) id() string { return r.org + "/" + r.name }

// listing is what the hub says of a model at one revision.
type listing struct {
	Commit string       `json:"sha"`
	Files  []listedFile `json:"siblings"`
}

type listedFile struct {
	Name  string `json:"rfilename"`
	Bytes *int64 `json:"size"`
	Blob  string `json:"blobId"` // git's name of the content, or of a pointer to it
	LFS   *struct {
		SHA256 string `json:"sha256"`
	} `json:"lfs"` // nil: the content is in git itself
}

// hub speaks to one server.
type hub struct {
	Options
	ref hubRef
}

// newHub fills in the defaults. The token is sent to the endpoint's own host and port only,
// not to where it redirects.
func newHub(o Options, r hubRef) (hub, error) {
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	address, err := url.Parse(o.Endpoint)
	if err != nil || address.Host == "" || address.Scheme != "https" && address.Scheme != "http" {
		return hub{}, fmt.Errorf("endpoint %q: want https://host or http://host", o.Endpoint)
	}
	client := http.Client{}
	if o.Client != nil {
		client = *o.Client
	}
	client.CheckRedirect = func(request *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return fmt.Errorf("more than %d redirects", len(via))
		}
		if request.URL.Host != address.Host {
			request.Header.Del("Authorization")
		}
		return nil
	}
	o.Client = &client
	return hub{o, r}, nil
}

// hubModel downloads what is missing of a model into CacheDir/models--org--name/commit.
func hubModel(ctx context.Context, ref string, o Options) (Source, error) {
	r, err := parseHubRef(ref)
	if err != nil {
		return Source{}, err
	}
	if o.CacheDir == "" {
		return Source{}, fmt.Errorf("model %s: no cache folder given for downloads", ref)
	}
	h, err := newHub(o, r)
	if err != nil {
		return Source{}, fmt.Errorf("model %s: %w", ref, err)
	}
	id, dir, err := h.fetch(ctx)
	if err != nil {
		return Source{}, fmt.Errorf("model %s: %w", ref, err)
	}
	s, err := folder(ctx, ref, dir)
	if err != nil {
		return Source{}, err
	}
	if err := checkComplete(dir, s.Files); err != nil {
		return Source{}, fmt.Errorf("model %s: %w", ref, err)
	}
	s.Pinned = HubScheme + r.id() + "@" + id
	return s, nil
}

// fetch returns the commit and its folder once every file is there. A commit that is there
// already needs no network.
func (h hub) fetch(ctx context.Context) (id, dir string, err error) {
	root := filepath.Join(h.CacheDir, "models--"+h.ref.org+"--"+h.ref.name)
	if commit.MatchString(h.ref.revision) {
		if dir = filepath.Join(root, h.ref.revision); isComplete(dir) {
			return h.ref.revision, dir, nil
		}
	}
	list, err := h.list(ctx)
	if err != nil {
		return "", "", err
	}
	dir = filepath.Join(root, list.Commit)
	if isComplete(dir) {
		return list.Commit, dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	unlock, err := lock(ctx, filepath.Join(root, ".lock"), func() { h.notify("waiting for another process that downloads " + h.ref.id()) })
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if !isComplete(dir) { // the one that held the lock may have done it
		if err := h.download(ctx, list, dir); err != nil {
			return "", "", err
		}
	}
	return list.Commit, dir, nil
}

// list asks for the commit and the files of the revision.
func (h hub) list(ctx context.Context) (listing, error) {
	address := fmt.Sprintf("%s/api/models/%s/revision/%s?blobs=true", h.Endpoint, h.ref.id(), url.PathEscape(h.ref.revision))
	return retry(ctx, h, func() (listing, error) {
		response, err := h.get(ctx, address, nil)
		if err != nil {
			return listing{}, err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return listing{}, h.refusal(response)
		}
		b, err := io.ReadAll(io.LimitReader(response.Body, maxListingBytes+1))
		if err != nil {
			return listing{}, fmt.Errorf("read %s: %w", address, err)
		}
		return parseListing(b, address)
	})
}

func parseListing(b []byte, address string) (listing, error) {
	var list listing
	if len(b) > maxListingBytes {
		return list, permanent(fmt.Errorf("%s: more than %d bytes", address, maxListingBytes))
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return list, permanent(fmt.Errorf("%s does not answer like a hub: %w", address, err))
	}
	if !commit.MatchString(list.Commit) {
		return list, permanent(fmt.Errorf("%s does not answer like a hub: commit %q", address, list.Commit))
	}
	return list, nil
}

// get sends one request. The token goes to the endpoint's host only: the client drops it
// when a redirect leaves it.
func (h hub) get(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, permanent(fmt.Errorf("endpoint %q: %w", h.Endpoint, err))
	}
	for key, values := range header {
		request.Header[key] = values
	}
	request.Header.Set("User-Agent", "zerofleet")
	request.Header.Set("Accept-Encoding", "identity") // sizes and ranges count the file's own bytes
	if h.Token != "" {
		request.Header.Set("Authorization", "Bearer "+h.Token)
	}
	response, err := h.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", h.Endpoint, err)
	}
	return response, nil
}

// refusal turns a status other than 200 into what the user can do about it. Those that time
// may heal are not permanent.
func (h hub) refusal(response *http.Response) error {
	why := response.Header.Get("X-Error-Message")
	if why != "" {
		why = " (" + why + ")"
	}
	code := response.Header.Get("X-Error-Code")
	page := h.Endpoint + "/" + h.ref.id()
	status := response.StatusCode
	switch {
	case code == "GatedRepo" && h.Token == "":
		return permanent(fmt.Errorf("gated%s: accept its terms at %s, then set HF_TOKEN to a token of that account", why, page))
	case code == "GatedRepo":
		return permanent(fmt.Errorf("gated%s: accept its terms at %s with the account of HF_TOKEN", why, page))
	case code == "RevisionNotFound":
		return permanent(fmt.Errorf("no revision %q: see %s/tree/main", h.ref.revision, page))
	case status == http.StatusUnauthorized && h.Token == "":
		return permanent(fmt.Errorf("the hub answers 401%s: no such model, or a private one: check the name, or set HF_TOKEN to a token that may read it", why))
	case status == http.StatusUnauthorized:
		return permanent(fmt.Errorf("the hub answers 401%s: HF_TOKEN is wrong or expired: see %s/settings/tokens", why, h.Endpoint))
	case status == http.StatusForbidden:
		return permanent(fmt.Errorf("the hub answers 403%s: the account of HF_TOKEN may not read it: see %s", why, page))
	case status == http.StatusNotFound && h.Token == "":
		return permanent(fmt.Errorf("the hub answers 404%s: nothing at %s: check the name, or set HF_TOKEN if it is private", why, page))
	case status == http.StatusNotFound:
		return permanent(fmt.Errorf("the hub answers 404%s: nothing at %s that HF_TOKEN may read: check the name", why, page))
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500:
		return later(response, fmt.Errorf("the hub answers %s%s", response.Status, why))
	}
	return permanent(fmt.Errorf("the hub answers %s%s to %s", response.Status, why, response.Request.URL.Redacted()))
}

func (h hub) notify(message string) {
	if h.Notify != nil {
		h.Notify(message)
	}
}
