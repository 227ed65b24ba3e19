#compdef tunneld
_arguments \
  '--config[configuration file of the network]:file:_files -g "*.(yaml|yml)"' \
  '--check[only check the configuration]' \
  '--run-dir[where the control socket is made]:directory:_files -/' \
  '--handover[take the network over from the process that serves it]' \
  '(- *)'{-h,--help}'[print help]' \
  '(- *)--version[print the version]'
