from pneumowatch.cli import main

main()
