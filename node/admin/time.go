package admin

import (
	"bytes"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Time is an instant of the API: RFC 3339 in UTC with milliseconds, null where
// there is none. The zero Time is "none".
type Time struct{ time.Time }

// At wraps an instant.
func At(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{t.UTC().Truncate(time.Millisecond)}
}

// AtMs wraps Unix milliseconds; 0 is none.
func AtMs(ms int64) Time {
	if ms == 0 {
		return Time{}
	}
	return Time{time.UnixMilli(ms).UTC()}
}

const timeLayout = "2006-01-02T15:04:05.000Z"

// String returns the instant as in JSON, or the empty string for none.
func (t Time) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return t.UTC().AppendFormat(nil, `"`+timeLayout+`"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		*t = Time{}
		return nil
	}
	at, err := time.Parse(`"`+time.RFC3339Nano+`"`, string(b))
	if err != nil {
		return fmt.Errorf("%s is not an RFC 3339 time", b)
	}
	*t = At(at)
	return nil
}

// Schema describes Time in the OpenAPI document.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Nullable: true}
}
