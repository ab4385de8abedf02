package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Error is a refusal or failure that an operator reads: an RFC 9457 problem
// document. Ports return it (possibly wrapped) for everything that is not the
// server's own fault; any other error becomes a 500 whose text is logged and
// not sent.
type Error struct {
	Status int    `json:"status" doc:"HTTP status"`
	Title  string `json:"title" doc:"the kind of problem, the same for each occurrence"`
	Detail string `json:"detail,omitempty" doc:"what is wrong, in one plain sentence"`
	Next   string `json:"next,omitempty" doc:"what to do about it"`
}

func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	if e.Next != "" {
		text += "; " + e.Next
	}
	return text
}

// GetStatus makes Error a huma.StatusError.
func (e *Error) GetStatus() int { return e.Status }

// ContentType makes huma send the error as a problem document.
func (e *Error) ContentType(string) string { return "application/problem+json" }

// Is reports whether two errors have the same status, so that
// errors.Is(err, admin.ErrNotFound) works on any 404.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Status == e.Status
}

// Problem makes an Error. Detail is one plain sentence without a full stop;
// next names what the operator can do and may be empty.
func Problem(status int, detail, next string) *Error {
	return &Error{Status: status, Title: http.StatusText(status), Detail: detail, Next: next}
}

// Problems by kind, for ports.

// NotFound says that there is no such thing (404), and which command lists those
// that are there.
func NotFound(what, name string) *Error {
	return Missing(fmt.Sprintf("there is no %s %s", what, name), "")
}

// Missing is NotFound in words that were made elsewhere. An empty next is filled in
// where they begin as those of NotFound do.
func Missing(detail, next string) *Error {
	what, known := strings.CutPrefix(detail, "there is no ")
	if what, _, _ = strings.Cut(what, " "); known && next == "" {
		if verb, ok := listedBy[what]; ok {
			next = "'relayctl " + verb + "' lists them"
		}
	}
	return Problem(http.StatusNotFound, detail, next)
}

// listedBy are the commands that list what has a name.
var listedBy = map[string]string{
	"node": "node ls", "member": "node ls", "domain": "domain ls", "user": "user ls", "alias": "alias ls",
	"route": "route ls", "mailbox": "mailbox ls", "signing": "dkim ls",
}

// Exists says that the thing is there already (409).
func Exists(what, name string) *Error {
	return Problem(http.StatusConflict, fmt.Sprintf("the %s %s exists already", what, name), "")
}

// Invalid says that a value can not be taken (422).
func Invalid(format string, args ...any) *Error {
	return Problem(http.StatusUnprocessableEntity, fmt.Sprintf(format, args...), "")
}

// Conflict says that the step is refused in the present state (409): it would
// lose quorum, the node is the last one, the domain still has users.
func Conflict(detail, next string) *Error {
	return Problem(http.StatusConflict, detail, next)
}

// NoQuorum says that nothing was changed because no majority answers (503).
func NoQuorum(detail string) *Error {
	return Problem(http.StatusServiceUnavailable, detail,
		"ask 'relayctl status' of each node which ones are down")
}

// Unknown says that it is not known whether a change was applied (504). The
// same request with the same Request id may be sent again.
func Unknown(detail string) *Error {
	return Problem(http.StatusGatewayTimeout, detail,
		"look whether the change is there before you repeat it")
}

// Full says that there is no room for what was sent (507).
func Full(detail string) *Error {
	return Problem(http.StatusInsufficientStorage, detail, "make room, or lower the watermark")
}

// Unsupported says that this node does not offer the function (501).
func Unsupported(what string) *Error {
	return Problem(http.StatusNotImplemented, "this node does not offer "+what, "")
}

// TitleState is the title of a problem with status 422 where the state of the cluster
// forbids what would be right at another time: nothing is wrong with how it was asked.
const TitleState = "Not In This State"

// TitleAmbiguous is the title of the problem that Ambiguous makes.
const TitleAmbiguous = "Ambiguous Id"

// Ambiguous says that the end of an id is that of n messages (409); some of them
// are shown.
func Ambiguous(ending string, n int, some []string) *Error {
	words := strings.Join(some, ", ")
	if n > len(some) {
		words += " and others"
	}
	e := Problem(http.StatusConflict, fmt.Sprintf("the ids of %d messages end in %s: %s", n, ending, words),
		"give more of the id")
	e.Title = TitleAmbiguous
	return e
}

// Errors to compare with by errors.Is; only the status counts.
var (
	ErrNotFound    = &Error{Status: http.StatusNotFound}
	ErrConflict    = &Error{Status: http.StatusConflict}
	ErrInvalid     = &Error{Status: http.StatusUnprocessableEntity}
	ErrNoQuorum    = &Error{Status: http.StatusServiceUnavailable}
	ErrUnknown     = &Error{Status: http.StatusGatewayTimeout}
	ErrForbidden   = &Error{Status: http.StatusUnauthorized}
	ErrFull        = &Error{Status: http.StatusInsufficientStorage}
	ErrUnsupported = &Error{Status: http.StatusNotImplemented}
)

// asError returns the Error in err's chain.
func asError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
