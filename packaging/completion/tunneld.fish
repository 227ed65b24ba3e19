# fish completion for tunneld.
complete -c tunneld -f
complete -c tunneld -l config -r -k -a '(__fish_complete_suffix .yaml)' -d 'configuration file of the network'
complete -c tunneld -l check -d 'only check the configuration'
complete -c tunneld -l run-dir -x -a '(__fish_complete_directories)' -d 'where the control socket is made'
complete -c tunneld -l handover -d 'take the network over from the process that serves it'
complete -c tunneld -s h -l help -d 'print help'
complete -c tunneld -l version -d 'print the version'
