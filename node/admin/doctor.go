package admin

import (
	"context"
	"net/http"
	"net/url"
)

// Doctor looks for what is wrong.
type Doctor interface {
	// Examine judges each condition as the answering node sees it, within five
	// seconds. It never fails for want of a quorum.
	Examine(ctx context.Context, o ExamineOptions) (*Examination, error)
}

// ExamineOptions steer an examination.
type ExamineOptions struct {
	Outward bool // also try to reach mail hosts that mail waits for
}

// Severities of a condition.
const (
	SeverityOK      = "ok"
	SeverityUnknown = "unknown" // can't be judged; the evidence says why
	SeverityWarning = "warning"
	SeverityError   = "error"
)

// Examination is how every condition stands.
type Examination struct {
	OK         bool        `json:"ok" doc:"no condition is a warning or an error"`
	Node       string      `json:"node" doc:"id of the node that answers: disk, configuration and certificates are its own"`
	At         Time        `json:"at"`
	Conditions []Condition `json:"conditions" doc:"all that were judged, in a fixed order"`
}

// Condition is how one thing stands that can be wrong.
type Condition struct {
	Name     string   `json:"name" doc:"the same in every version"`
	Severity string   `json:"severity" enum:"ok,unknown,warning,error"`
	Summary  string   `json:"summary" doc:"one sentence"`
	Evidence []string `json:"evidence" doc:"figures and names, one thing each; of an unknown condition: why it can not be judged"`
	Next     string   `json:"next" doc:"what to do, if anything is wrong"`
}

type examineInput struct {
	Reading
	Outward bool `query:"outward" doc:"also try to reach mail hosts that mail waits for"`
}

func (s *server) registerDoctor() {
	d := s.Ports.Doctor
	examine := func(ctx context.Context, in *examineInput) (*body[*Examination], error) {
		return answer(d.Examine(ctx, ExamineOptions{Outward: in.Outward}))
	}
	handle(s, http.MethodGet, "/v1/doctor", "What is wrong, and what to do", examine)
}

// Examine implements Doctor.
func (c *Client) Examine(ctx context.Context, o ExamineOptions) (*Examination, error) {
	out := new(Examination)
	return out, c.call(ctx, get("/v1/doctor", url.Values{}).flag("outward", o.Outward), out)
}
