package admin

import (
	"io"
	"net/http"
	"time"
)

// bodySilence is how long the body of a request may stop coming.
const bodySilence = 30 * time.Second

// timed ends requests whose body does not come. A body may be of any size and
// take any time, as long as it goes on: mailboxes are imported that way.
func timed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			b := &timedBody{ReadCloser: r.Body, on: http.NewResponseController(w)}
			b.until(time.Now().Add(bodySilence))
			r.Body = b
			defer b.leave()
		}
		h.ServeHTTP(w, r)
	})
}

type timedBody struct {
	io.ReadCloser
	on    *http.ResponseController
	ended bool
}

// until sets the deadline; a ResponseWriter that has none belongs to a test.
func (b *timedBody) until(t time.Time) { _ = b.on.SetReadDeadline(t) }

// leave is called behind the request. The server reads what is left of its body,
// and then sets a deadline of its own.
func (b *timedBody) leave() {
	if !b.ended {
		b.until(time.Now().Add(bodySilence))
	}
}

// Read implements io.Reader. A body that has ended must leave no deadline behind,
// which would end the request while it is answered.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.ended = true
		b.until(time.Time{})
	case err == nil:
		b.until(time.Now().Add(bodySilence))
	}
	return n, err
}
