package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sort"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// Blob is the store in a bucket of an object store. An object there appears whole, when its upload is complete: that is
// the object store's own promise, and why no temporary names are needed.
//
// It stands in this package, whatever the drivers weigh, because OpenStore is one function for both commands, which need
// every driver anyhow: the store is a setting of the job.
type Blob struct {
	bucket *blob.Bucket
	place  string // for errors

	name, prefix string // of an S3 bucket, for its unfinished uploads

	retries     retryPolicy
	uploadBytes int
}

// retryPolicy bounds how long a store is asked again. The drivers try single requests again too, an upload's parts for
// one; this covers a whole operation.
type retryPolicy struct {
	tries    uint          // in all
	first    time.Duration // before the second try, then twice as long each time
	stalled  time.Duration // an answer or a byte read takes no longer
	uploaded time.Duration // nor do the bytes that the driver holds, when a write waits for room or for the end
}

var defaultRetries = retryPolicy{tries: 6, first: 250 * time.Millisecond, stalled: time.Minute, uploaded: 10 * time.Minute}

// uploadBytes is the size of an upload's parts, of which S3 takes 10000: objects of up to 312 GiB. An upload holds
// uploadParts of them, and one more that is being filled, in memory.
const (
	uploadBytes = 32 << 20
	uploadParts = 3
)

// NewBlob is the store in bucket; place is what errors call it. OpenStore does the opening too.
func NewBlob(bucket *blob.Bucket, place string) *Blob {
	return &Blob{bucket: bucket, place: place, retries: defaultRetries, uploadBytes: uploadBytes}
}

// reach asks for the bucket.
func (b *Blob) reach(ctx context.Context) error {
	there, err := try(ctx, b, "reach", "bucket", b.retries.stalled, func(ctx context.Context, _ func()) (bool, error) {
		return b.bucket.IsAccessible(ctx)
	})
	if err == nil && !there {
		err = fmt.Errorf("%s: no such bucket: %w", b.place, fs.ErrNotExist)
	}
	return err
}

// Put uploads what write writes, in parts, and makes it an object at the end.
func (b *Blob) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := try(ctx, b, "put", key, b.retries.uploaded, func(ctx context.Context, alive func()) (struct{}, error) {
		return struct{}{}, b.upload(ctx, key, write, alive)
	})
	return err
}

func (b *Blob) upload(ctx context.Context, key string, write func(io.Writer) error, alive func()) error {
	// The condition below is what holds; this saves an upload, and finds one that was completed though its answer was lost.
	if there, err := b.bucket.Exists(ctx, key); err != nil || there {
		return err
	}
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	// The driver reads: those that are written to differ in what they do when an upload fails, and Azure's panics.
	r, pipe := io.Pipe()
	watched := &watchedWriter{w: pipe, alive: alive}
	written := make(chan error, 1)
	go func() {
		err := write(contextWriter{ctx, watched})
		if err != nil {
			abandon() // before the driver sees the end, which would complete the object
		}
		pipe.CloseWithError(err) // of nil: the end
		written <- err
	}()
	err := b.bucket.Upload(ctx, key, r, &blob.WriterOptions{BufferSize: b.uploadBytes, MaxConcurrency: uploadParts,
		ContentType: "application/octet-stream", IfNotExist: true})
	r.CloseWithError(errUploadOver)
	own := <-written
	switch {
	case gcerrors.Code(err) == gcerrors.FailedPrecondition:
		return nil // another writer was first
	case context.Cause(ctx) == errStalled: //nolint:errorlint // the cause itself
		return err
	case own != nil && watched.err == nil:
		return backoff.Permanent(own) // the caller's
	}
	return err
}

// errUploadOver ends a write whose upload has ended before it.
var errUploadOver = errors.New("the upload has ended")

// watchedWriter says when bytes were taken, and remembers whose an error is.
type watchedWriter struct {
	w     io.Writer
	alive func()
	err   error
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	if err != nil {
		w.err = err
	}
	w.alive()
	return n, err
}

// Open asks for the object's size.
func (b *Blob) Open(ctx context.Context, key string) (Object, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	a, err := try(ctx, b, "open", key, b.retries.stalled, func(ctx context.Context, _ func()) (*blob.Attributes, error) {
		return b.bucket.Attributes(ctx, key)
	})
	if err != nil {
		return nil, err
	}
	return &blobObject{b: b, key: key, bytes: a.Size}, nil
}

type blobObject struct {
	b     *Blob
	key   string
	bytes int64
}

func (o *blobObject) Bytes() int64 { return o.bytes }

func (o *blobObject) Close() error { return nil }

// ReadAt reads the range in one request, and what is left of it in another when the first breaks off.
func (o *blobObject) ReadAt(ctx context.Context, buf []byte, off int64) error {
	if off < 0 || off > o.bytes-int64(len(buf)) {
		return fmt.Errorf("read %s: bytes [%d,%d) of %d: %w", o.key, off, off+int64(len(buf)), o.bytes, io.ErrUnexpectedEOF)
	}
	done := 0
	_, err := try(ctx, o.b, "read", o.key, o.b.retries.stalled, func(ctx context.Context, alive func()) (struct{}, error) {
		if done == len(buf) {
			return struct{}{}, nil
		}
		r, err := o.b.bucket.NewRangeReader(ctx, o.key, off+int64(done), int64(len(buf)-done), nil)
		if err != nil {
			return struct{}{}, err
		}
		defer r.Close()
		n, err := io.ReadFull(watchedReader{r, alive}, buf[done:])
		done += n
		return struct{}{}, err
	})
	return err
}

type watchedReader struct {
	r     io.Reader
	alive func()
}

func (r watchedReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.alive()
	return n, err
}

// List lists what is complete.
func (b *Blob) List(ctx context.Context, prefix string) ([]Info, error) {
	return try(ctx, b, "list", prefix+"*", b.retries.stalled, func(ctx context.Context, alive func()) ([]Info, error) {
		var list []Info
		for it := b.bucket.List(&blob.ListOptions{Prefix: prefix}); ; alive() {
			o, err := it.Next(ctx)
			if err == io.EOF {
				sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
				return list, nil
			}
			if err != nil {
				return nil, err
			}
			list = append(list, Info{Key: o.Key, Bytes: o.Size, Modified: o.ModTime})
		}
	})
}

// Delete removes the object.
func (b *Blob) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := try(ctx, b, "delete", key, b.retries.stalled, func(ctx context.Context, _ func()) (struct{}, error) {
		return struct{}{}, b.bucket.Delete(ctx, key)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeTemporary ends the uploads that a dead writer has begun before. Only S3 keeps them, and charges for them, until
// someone does; the others drop them after a week.
func (b *Blob) removeTemporary(ctx context.Context, before time.Time) error {
	var client *s3.Client
	if !b.bucket.As(&client) {
		return nil
	}
	_, err := try(ctx, b, "end unfinished uploads below", b.prefix, b.retries.stalled, func(ctx context.Context, alive func()) (struct{}, error) {
		pages := s3.NewListMultipartUploadsPaginator(client, &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: &b.prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if httpStatus(err) == http.StatusNotFound {
				return struct{}{}, nil // what some servers answer when there is none
			}
			if err != nil {
				return struct{}{}, err
			}
			for _, u := range page.Uploads {
				if u.Initiated == nil || !u.Initiated.Before(before) {
					continue
				}
				_, err := client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: u.Key, UploadId: u.UploadId})
				if err != nil && httpStatus(err) != http.StatusNotFound {
					return struct{}{}, err
				}
				alive()
			}
		}
		return struct{}{}, nil
	})
	return err
}

var errStalled = errors.New("the store has stopped answering")

// try calls f until it succeeds, fails for good, or the tries are used up. A try ends when alive was not called for
// longer than limit. The error names the operation and the key, and wraps fs.ErrNotExist where that is the cause.
func try[T any](ctx context.Context, b *Blob, operation, key string, limit time.Duration, f func(ctx context.Context, alive func()) (T, error)) (T, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.Multiplier, wait.MaxInterval = b.retries.first, 2, 32*b.retries.first
	tries := 0
	v, err := backoff.Retry(ctx, func() (v T, err error) {
		if ctx.Err() != nil {
			return v, backoff.Permanent(context.Cause(ctx))
		}
		tries++
		within, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		timer := time.AfterFunc(limit, func() { stop(errStalled) })
		defer timer.Stop()
		v, err = f(within, func() { timer.Reset(limit) })
		switch {
		case err == nil:
			return v, nil
		case ctx.Err() != nil:
			return v, backoff.Permanent(context.Cause(ctx))
		case context.Cause(within) == errStalled: //nolint:errorlint // the cause itself
			return v, fmt.Errorf("%w for %v", errStalled, limit)
		case !transient(err):
			return v, backoff.Permanent(err)
		}
		return v, err
	}, backoff.WithBackOff(wait), backoff.WithMaxTries(b.retries.tries), backoff.WithMaxElapsedTime(0))
	switch {
	case err == nil:
		return v, nil
	case gcerrors.Code(err) == gcerrors.NotFound:
		err = fmt.Errorf("%w: %v", fs.ErrNotExist, err)
	case tries > 1:
		err = fmt.Errorf("after %d tries: %w", tries, err)
	}
	return v, fmt.Errorf("%s %s in %s: %w", operation, key, b.place, err)
}

// transient says whether time may heal an error: anything but what the store has refused for a reason.
func transient(err error) bool {
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		return false
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound, gcerrors.AlreadyExists, gcerrors.InvalidArgument, gcerrors.FailedPrecondition, gcerrors.PermissionDenied, gcerrors.Unimplemented:
		return false
	}
	switch status := httpStatus(err); status {
	case http.StatusNotFound, // of an upload: it was completed, and the answer lost
		http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	default:
		return status < 400 || status >= 500
	}
}

// httpStatus is the status that an S3 error carries; 0 without one.
func httpStatus(err error) int {
	var h interface{ HTTPStatusCode() int }
	if errors.As(err, &h) {
		return h.HTTPStatusCode()
	}
	return 0
}
