package checkpoint

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// Hasten makes a store try again soon, so that tests do not wait, and its S3 driver not at all, so that this package's
// tries are what is tested.
func (b *Blob) Hasten(t *testing.T, stalled time.Duration) {
	t.Helper()
	b.retries.first, b.retries.stalled, b.retries.uploaded = time.Millisecond, stalled, stalled
	b.uploadBytes = uploadedParts
	var client *s3.Client
	if !b.bucket.As(&client) {
		return // another cloud's: its driver's own tries stay
	}
	once := s3.New(client.Options(), func(o *s3.Options) { o.Retryer = aws.NopRetryer{} })
	bucket, err := s3blob.OpenBucket(context.Background(), once, b.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.bucket = blob.PrefixedBucket(bucket, b.prefix)
}

// uploadedParts is the size of a part of tests' uploads, and MultipartBytes of an object that has several: the driver
// takes nothing below 16 MiB apart.
const (
	uploadedParts  = 9 << 20
	MultipartBytes = 17 << 20
)

// RemoveTemporary is what Sweep calls.
func RemoveTemporary(ctx context.Context, s Store, before time.Time) error {
	return s.(interface {
		removeTemporary(ctx context.Context, before time.Time) error
	}).removeTemporary(ctx, before)
}
