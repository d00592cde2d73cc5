package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/meshswarm/meshswarm/secrets"
)

// Protocols on the control port, by ALPN.
const (
	ProtoRaft = "meshswarm-raft"
	ProtoHTTP = "h2"
)

// Paths of the control port.
const (
	PathCA      = "/v1/ca"
	PathJoin    = "/v1/join"
	PathSession = "/v1/session"
	PathRenew   = "/v1/renew"
	PathReverse = "/v1/logs/" // followed by the ID of the reverse stream
	PathAPI     = "/v1/api/"  // followed by the path of the Engine API
)

// Access is what a caller must be.
type Access int

// Kinds of access. Everything but AccessAnyone needs a certificate of the swarm and the consent of Allowed.
const (
	AccessAnyone  Access = iota // no certificate needed
	AccessMember                // any node of the swarm
	AccessManager               // a manager of the swarm
	AccessRaft                  // a manager that opens a raft stream
)

// String names the access in logs.
func (a Access) String() string {
	return [...]string{"anyone", "member", "manager", "raft"}[a]
}

// Error is a refusal as it travels: the status, a code for programs and a sentence for people. Two Errors are the same to
// errors.Is when their codes are.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Leader is the leader's control address, with CodeNotLeader.
	Leader string `json:"leader,omitempty"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Is implements errors.Is.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// With is the same refusal with more words.
func (e *Error) With(format string, args ...any) *Error {
	more := *e
	more.Message = e.Message + ": " + fmt.Sprintf(format, args...)
	return &more
}

// Refusals that both sides know.
var (
	// ErrNotLeader: ask the manager in Leader, or another one when it is empty.
	ErrNotLeader     = &Error{http.StatusMisdirectedRequest, "not_leader", "this manager is not the leader", ""}
	ErrUnavailable   = &Error{http.StatusServiceUnavailable, "unavailable", "manager is not ready", ""}
	ErrNoCertificate = &Error{http.StatusUnauthorized, "no_certificate", "this needs a node certificate: join the swarm first", ""}
	ErrForbidden     = &Error{http.StatusForbidden, "forbidden", "this node may not do that", ""}
	// ErrRemoved: the node was removed from the swarm, for good.
	ErrRemoved = &Error{http.StatusForbidden, "removed", "this node was removed from the swarm: `meshswarm leave --force`, then join again", ""}
	// ErrUnknownNode: the manager does not know the node, perhaps not yet.
	ErrUnknownNode = &Error{http.StatusForbidden, "unknown_node", "this manager does not know the node", ""}
	ErrBadToken    = &Error{http.StatusForbidden, "bad_token", "the join token is not valid (any more): get the present one with `meshswarm join-token worker` on a manager", ""}
	ErrBadRequest  = &Error{http.StatusBadRequest, "bad_request", "bad request", ""}
	ErrNotFound    = &Error{http.StatusNotFound, "not_found", "not found", ""}
	ErrTooMany     = &Error{http.StatusTooManyRequests, "too_many", "too many requests", ""}
)

// NotLeader is ErrNotLeader that tells where the leader is ("" when unknown).
func NotLeader(leader string) *Error {
	e := *ErrNotLeader
	e.Leader = leader
	if leader != "" {
		e.Message += ": the leader is at " + leader
	} else {
		e.Message += ", and there is none at present"
	}
	return &e
}

// maxBody bounds the body of a plain request or answer.
const maxBody = 1 << 20

// WriteError answers a request with err. An error that is not an *Error becomes a 500 with its text.
func WriteError(w http.ResponseWriter, err error) {
	var e *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
	case errors.As(err, &tooLarge):
		e = &Error{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("request is larger than %d bytes", tooLarge.Limit), ""}
	default:
		e = &Error{http.StatusInternalServerError, "internal", err.Error(), ""}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}

// WriteJSON answers a request with v.
func WriteJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// ReadJSON reads the body of a request. Its errors are ErrBadRequest or "too large".
func ReadJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return ErrBadRequest.With("%v", err)
	}
	return nil
}

// readError turns an answer with an error status into an *Error.
func readError(resp *http.Response) error {
	e := &Error{}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err := json.Unmarshal(body, e); err != nil || e.Message == "" {
		e = &Error{Code: "http", Message: "manager answered " + resp.Status}
	}
	e.Status = resp.StatusCode
	return e
}

// JoinRequest asks for membership. The role follows from the token.
type JoinRequest struct {
	Token    string `json:"token"`
	CSR      []byte `json:"csr"`
	Hostname string `json:"hostname,omitempty"`
	// Availability is active when empty.
	Availability string            `json:"availability,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	// ControlAddr is the host:port that the node's own control port will have, should it be a manager.
	ControlAddr string `json:"controlAddr,omitempty"`
}

// JoinResponse is a new member's welcome.
type JoinResponse struct {
	NodeID      string       `json:"nodeID"`
	SwarmID     string       `json:"swarmID"`
	Role        secrets.Role `json:"role"`
	Certificate []byte       `json:"certificate"`
	// Managers are the control addresses of all managers, the answering one first.
	Managers     []string `json:"managers"`
	DataPathPort uint16   `json:"dataPathPort,omitempty"`
	// RemoteAddr is the address that the joining node was seen with.
	RemoteAddr string `json:"remoteAddr,omitempty"`
}
