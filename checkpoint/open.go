package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/s3blob"    // s3://
)

// schemes are the object stores that OpenStore knows.
var schemes = map[string]bool{"s3": true, "gs": true, "azblob": true}

// OpenStore opens the store at a folder's path, which need not exist yet, or at s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or
// azblob://CONTAINER/PREFIX. An object store is asked whether the bucket is there, so that a wrong name or missing
// credentials are an error now and not at the first checkpoint. Credentials are those that each cloud's own tools find;
// what stands after a ? goes to the driver: region, endpoint and use_path_style, for example, for an S3 server that is
// not Amazon's (gocloud.dev/blob/s3blob has the list).
func OpenStore(ctx context.Context, where string) (Store, error) {
	scheme, _, isURL := strings.Cut(where, "://")
	if !isURL {
		if where == "" {
			return nil, errors.New("open checkpoint store: no path")
		}
		return Dir(where), nil
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint store: %w", err)
	}
	prefix := strings.Trim(u.Path, "/")
	place := fmt.Sprintf("%s://%s/%s", scheme, u.Host, prefix) // without what stands after the ?
	q := u.Query()
	switch {
	case !schemes[scheme]:
		return nil, fmt.Errorf("open checkpoint store %s: want a path, s3://, gs:// or azblob://", place)
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("open checkpoint store %s: want %s://BUCKET/PREFIX", place, scheme)
	case prefix != "" && !fs.ValidPath(prefix):
		return nil, fmt.Errorf("open checkpoint store %s: prefix %q: want no empty, . or .. element", place, prefix)
	case q.Has("prefix") || q.Has("key"):
		return nil, fmt.Errorf("open checkpoint store %s: prefix= and key= belong in the path: want %s://BUCKET/PREFIX", place, scheme)
	}
	u.Path = ""
	// Some drivers keep the context, to renew credentials with; no request is made yet.
	bucket, err := blob.OpenBucket(context.WithoutCancel(ctx), u.String())
	if err != nil {
		return nil, fmt.Errorf("open checkpoint store %s: %w", place, err)
	}
	b := NewBlob(bucket, place)
	b.name, b.prefix = u.Host, prefix
	if prefix != "" {
		b.prefix += "/"
		b.bucket = blob.PrefixedBucket(bucket, b.prefix)
	}
	if err := b.reach(ctx); err != nil {
		return nil, err
	}
	return b, nil
}
