package main

// The help texts have the layout of the docker command's.
const (
	commandHelp = `Usage:  {{.HelpName}}{{if .VisibleFlags}} [OPTIONS]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}

{{.Usage}}{{if .Description}}

{{.Description}}{{end}}{{if .Aliases}}

Aliases:
  {{.HelpName}}, {{join .Aliases ", "}}{{end}}{{if .VisibleFlags}}

Options:
{{range .VisibleFlags}}{{.}}
{{end}}{{end}}`

	groupHelp = `Usage:  {{.HelpName}}{{if .VisibleFlags}} [OPTIONS]{{end}} COMMAND

{{.Usage}}

Commands:
{{range .VisibleCommands}}  {{.Name}}{{"\t"}}{{.Usage}}
{{end}}{{if .VisibleFlags}}
Options:
{{range .VisibleFlags}}{{.}}
{{end}}{{end}}
Run '{{.HelpName}} COMMAND --help' for more information on a command.
`
)
